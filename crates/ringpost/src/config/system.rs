//! What the machine says, for keys that the file leaves out.

use std::fs;
use std::net::SocketAddr;

use super::units::parse_name_server;

/// Facts about the machine at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemFacts {
    /// The host name; empty when it could not be read.
    pub hostname: String,
    /// Numbers of the cores that the process may use, ascending; empty when they could not be read.
    pub cores: Vec<usize>,
    /// Name servers of `/etc/resolv.conf`, in its order.
    pub name_servers: Vec<SocketAddr>,
}

impl SystemFacts {
    /// Reads the facts. What cannot be read is left empty, and [`super::parse`] says what to set.
    pub fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self {
            hostname: text("/proc/sys/kernel/hostname").trim().to_owned(),
            cores: allowed_cores(&text("/proc/self/status")),
            name_servers: name_servers(&text("/etc/resolv.conf")),
        }
    }
}

/// The list behind `Cpus_allowed_list:`, such as `0-3,8`.
fn allowed_cores(status: &str) -> Vec<usize> {
    let Some(list) = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")) else {
        return Vec::new();
    };
    let mut cores = Vec::new();
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        if let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) {
            cores.extend(first..=last);
        }
    }
    cores
}

/// The `nameserver` lines; those with a scope (`fe80::1%eth0`) are left out.
fn name_servers(resolv_conf: &str) -> Vec<SocketAddr> {
    resolv_conf
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("nameserver"))
        .filter(|rest| rest.starts_with([' ', '\t']))
        .filter_map(|rest| rest.split_whitespace().next())
        .filter_map(|address| parse_name_server(address).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allowed_cores_are_lists_of_ranges() {
        let table: [(&str, &[usize]); 5] = [
            ("Name:\tx\nCpus_allowed_list:\t0-3,8\nMems:\t0\n", &[0, 1, 2, 3, 8]),
            ("Cpus_allowed_list:\t5\n", &[5]),
            ("Cpus_allowed_list:\t1,3\n", &[1, 3]),
            ("Cpus_allowed_list:\tgarbage\n", &[]),
            ("", &[]),
        ];
        for (status, expected) in table {
            assert_eq!(allowed_cores(status), expected, "{status:?}");
        }
    }

    #[test]
    fn name_servers_are_read_from_resolv_conf() {
        let text = "# nameserver 192.0.2.9\ndomain example.com\nnameserver 192.0.2.1\n\
                    nameserver\t2001:db8::53 # comment\nnameserver fe80::1%eth0\nnameserverx 1.1.1.1\n";
        let expected: Vec<SocketAddr> =
            ["192.0.2.1:53", "[2001:db8::53]:53"].iter().map(|s| s.parse().unwrap()).collect();
        assert_eq!(name_servers(text), expected);
    }

    #[test]
    fn this_machine_has_a_core() {
        assert!(!SystemFacts::read().cores.is_empty());
    }
}
