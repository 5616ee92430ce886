//! Applications that send mail to the server.
