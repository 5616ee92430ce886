"""A receiver that speaks TLS by openssl, or fails at it in a way of choice.

Arguments: address, port, how, certificate chain, key, lowest and highest version, and a file of authorities
for certificates of clients, or "". It says on standard output what happens, a line each.
"""

import base64
import hashlib
import hmac
import socket
import ssl
import sys
import threading

host, port, how, chain, key, lowest, highest, clients = sys.argv[1:9]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(chain, key)
context.minimum_version = ssl.TLSVersion[lowest]
context.maximum_version = ssl.TLSVersion[highest]
if clients:
    context.load_verify_locations(clients)
    context.verify_mode = ssl.CERT_REQUIRED
asked = threading.local()


def hear_name(connection, name, _):
    asked.name = name


context.sni_callback = hear_name
lock = threading.Lock()


def tell(*words):
    with lock:
        print(*words, flush=True)


def shake(plain):
    asked.name = None
    try:
        secure = context.wrap_socket(plain, server_side=True)
    except (ssl.SSLError, OSError) as error:
        tell("failed", getattr(error, "reason", None) or type(error).__name__)
        raise
    shown = secure.getpeercert() if clients else None
    subject = shown["subject"][-1][0][1] if shown else "-"
    resumed = "resumed" if secure.session_reused else "full"
    tell("handshake", secure.version(), asked.name, resumed, subject)
    return secure


def upset(plain):
    """Does what a broken receiver does behind its 220; whether that was the end."""
    if how == "garbage":
        plain.recv(65536)
        plain.sendall(b"this is not TLS, whatever was said\r\n" * 10)
    elif how == "cut":
        # All of it: what is left unread makes a reset of the end.
        plain.recv(65536)
        plain.sendall(b"\x16\x03\x03\x00\x7a\x02\x00")
    elif how == "hang":
        while plain.recv(65536):
            pass
    elif how == "alert":
        plain.recv(65536)
        plain.sendall(b"\x15\x03\x03\x00\x02\x02\x28")
    elif how != "close":
        return False
    plain.close()
    return True


def field(message, name):
    found = [part[2:] for part in message.split(",") if part.startswith(name + "=")]
    return found[-1]


def scram(line, hear, say):
    """Lets in who has the password "secret" by SCRAM-SHA-256, and shows that it has it, too. Those called
    "impostor" and "yes-man" do not have it: the one shows something else, and the other nothing."""

    def read(text):
        return base64.b64decode(text).decode()

    def ask(text):
        say("334 " + base64.b64encode(text.encode()).decode())
        return read(hear().strip())

    def sign(key, text):
        return hmac.new(key, text, hashlib.sha256).digest()

    bare = read(line.split()[2]).split(",", 2)[2]
    nonce = field(bare, "r") + "sink"
    salt = b"0123456789abcdef"
    first = f"r={nonce},s={base64.b64encode(salt).decode()},i=4096"
    last = ask(first)
    if how == "yes-man":
        return say("235 2.7.0 in")
    signed = f"{bare},{first},{last.rpartition(',')[0]}".encode()
    salted = hashlib.pbkdf2_hmac("sha256", b"secret", salt, 4096)
    client = sign(salted, b"Client Key")
    mask = sign(hashlib.sha256(client).digest(), signed)
    proof = bytes(one ^ other for one, other in zip(client, mask))
    is_right = base64.b64decode(field(last, "p")) == proof and field(last, "r") == nonce
    tell("proof", is_right)
    shown = sign(sign(salted, b"Server Key"), signed)
    if how == "impostor":
        shown = sign(b"what it does not know", signed)
    elif not is_right:
        return say("535 5.7.8 no")
    ask("v=" + base64.b64encode(shown).decode())
    say("235 2.7.0 in")


def talk(plain):
    tell("connection")
    secure = None
    if how == "implicit":
        plain = secure = shake(plain)
    stream = plain.makefile("rb")

    def say(text):
        plain.sendall(text.encode() + b"\r\n")

    say("220 sink.test ESMTP")
    while True:
        line = stream.readline()
        if not line:
            return
        verb = line[:4].upper()
        if verb == b"EHLO":
            offers = ["sink.test", "8BITMIME", "SIZE 100000000"]
            if secure is None and how not in ("implicit", "none"):
                offers.append("STARTTLS")
            if secure is not None:
                offers.append("PIPELINING")
            if how in ("scram", "impostor", "yes-man") and secure is not None:
                offers.append("AUTH PLAIN SCRAM-SHA-256")
            if how == "requiretls":
                # In plain text too, where nobody should believe it.
                offers.append("REQUIRETLS")
            say("\r\n".join("250-" + offer for offer in offers) + "\r\n250 ENHANCEDSTATUSCODES")
        elif verb == b"STAR":
            if how == "refuse":
                say("454 4.7.0 not now")
                continue
            if how == "ahead":
                plain.sendall(b"220 go\r\n250 and more\r\n")
                continue
            say("220 go")
            if upset(plain):
                return
            plain = secure = shake(plain)
            stream = plain.makefile("rb")
        elif verb == b"AUTH":
            scram(line, stream.readline, say)
        elif verb == b"MAIL":
            tell("mail", line.decode().strip())
            say("250 2.1.0 ok")
        elif verb == b"DATA":
            say("354 go")
            size = 0
            while True:
                line = stream.readline()
                size += len(line)
                if line.startswith(b"X-Content:"):
                    tell("content")
                if line in (b".\r\n", b""):
                    break
            if line:
                tell("message", "tls" if secure else "plain", size - 3)
                say("250 2.0.0 ok")
        elif verb == b"QUIT":
            say("221 2.0.0 bye")
            tell("quit")
            if secure is not None:
                try:
                    secure.unwrap()
                    tell("closed")
                except (ssl.SSLError, OSError):
                    tell("truncated")
            return
        else:
            say("250 2.0.0 ok")


def serve(plain):
    try:
        with plain:
            talk(plain)
    except (ssl.SSLError, OSError):
        pass


listener = socket.create_server((host, int(port)))
tell("listening")
while True:
    connection, _ = listener.accept()
    threading.Thread(target=serve, args=(connection,), daemon=True).start()
