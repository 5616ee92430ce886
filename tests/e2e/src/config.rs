//! Writes a configuration file.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

/// A configuration file in the making: TOML values by section and key.
///
/// It begins with what suits a test: small segments, a short retry schedule, files in the test's own
/// directory, whatever else is on its disk, and no DNS server. Everything can be replaced.
#[derive(Debug, Clone)]
pub struct Config {
    sections: BTreeMap<String, BTreeMap<String, String>>,
    routes: Vec<(String, String)>,
    tail: String,
}

impl Config {
    /// A configuration that listens on `smtp` and `control` and keeps its files in `directory`.
    pub fn new(directory: &Path, smtp: SocketAddr, control: SocketAddr) -> Self {
        let mut config =
            Self { sections: BTreeMap::new(), routes: Vec::new(), tail: String::new() };
        let d = directory.display();
        config
            .set("server", "hostname", "\"relay.test\"")
            .set("listener.main", "addresses", &format!("[\"{smtp}\"]"))
            .set("queue", "directory", &format!("\"{d}/queue\""))
            .set("queue", "segment_size", "\"8MiB\"")
            .set("queue", "size_max", "\"1GiB\"")
            // How full the disk of the machine is, is not what is tested.
            .set("queue", "free_space_slow_percent", "0")
            .set("queue", "free_space_min_percent", "1")
            .set("delivery", "retry", "[\"1s\"]")
            // Nobody is asked while every domain has a route.
            .set("dns", "servers", "[\"127.0.0.1:53\"]")
            .set("control", "listen", &format!("\"{control}\""))
            .set("events", "path", &format!("\"{d}/events.jsonl\""))
            .set("log", "level", "\"info\"");
        // The tests hold for either runtime.
        if let Ok(runtime) = std::env::var("RINGPOST_TEST_RUNTIME") {
            config.set("server", "runtime", &format!("\"{runtime}\""));
        }
        config
    }

    /// Sets a key to a TOML value, quotes included.
    pub fn set(&mut self, section: &str, key: &str, value: &str) -> &mut Self {
        self.sections.entry(section.to_owned()).or_default().insert(key.to_owned(), value.into());
        self
    }

    /// Removes a key.
    pub fn remove(&mut self, section: &str, key: &str) -> &mut Self {
        if let Some(keys) = self.sections.get_mut(section) {
            keys.remove(key);
        }
        self
    }

    /// Routes a domain, or `*`, to a smarthost.
    pub fn route(&mut self, domain: &str, smarthost: SocketAddr) -> &mut Self {
        self.routes.retain(|(known, _)| known != domain);
        self.routes.push((domain.to_owned(), smarthost.to_string()));
        self
    }

    /// Adds text at the end of the file, right or wrong.
    pub fn append(&mut self, text: &str) -> &mut Self {
        self.tail.push_str(text);
        self
    }

    /// The file.
    pub fn render(&self) -> String {
        let mut out = String::new();
        for (section, keys) in &self.sections {
            let _ = writeln!(out, "[{section}]");
            for (key, value) in keys {
                let _ = writeln!(out, "{key} = {value}");
            }
        }
        for (domain, smarthost) in &self.routes {
            let _ = writeln!(out, "[[route]]\ndomain = \"{domain}\"\nsmarthost = \"{smarthost}\"");
        }
        out.push_str(&self.tail);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_of_a_key_and_of_a_route_counts() {
        let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let other: SocketAddr = "127.0.0.1:2".parse().unwrap();
        let mut config = Config::new(Path::new("/t"), address, other);
        config.set("delivery", "retry", "[\"2s\"]").remove("log", "level");
        config.route("*", address).route("*", other).append("# end\n");
        let text = config.render();
        assert!(text.contains("[delivery]\nretry = [\"2s\"]\n"));
        assert!(!text.contains("1s") && !text.contains("level"));
        assert!(text.contains("domain = \"*\"\nsmarthost = \"127.0.0.1:2\"\n"));
        assert!(!text.contains("smarthost = \"127.0.0.1:1\""));
        assert!(text.ends_with("# end\n"));
    }
}
