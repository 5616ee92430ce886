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
    /// Octets of memory for the process: the limit of its control group, or four fifths of the
    /// machine's memory; `None` when neither could be read.
    pub memory: Option<u64>,
}

impl SystemFacts {
    /// Reads the facts. What cannot be read is left empty, and [`super::parse`] says what to set.
    pub fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self {
            hostname: text("/proc/sys/kernel/hostname").trim().to_owned(),
            cores: allowed_cores(&text("/proc/self/status")),
            name_servers: name_servers(&text("/etc/resolv.conf")),
            memory: group_memory(&text("/proc/self/cgroup"), &text)
                .or_else(|| machine_memory(&text("/proc/meminfo"))),
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

/// The smallest limit on memory of the control groups that the process is in.
fn group_memory(groups: &str, text: &impl Fn(&str) -> String) -> Option<u64> {
    let files = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?.trim_end_matches('/'));
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => return None,
        };
        // In a container the group may be mounted as the root.
        Some([format!("{root}{path}/{file}"), format!("{root}/{file}")])
    });
    let limits = files.flatten().filter_map(|file| text(&file).trim().parse::<u64>().ok());
    // Version 1 writes a number beyond all machines where there is no limit.
    limits.filter(|limit| *limit < 1 << 60).min()
}

/// Four fifths of `MemTotal:`.
fn machine_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes / 5 * 4 * 1024)
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
    fn memory_is_that_of_the_group_or_most_of_the_machine() {
        let files = |path: &str| {
            match path {
                "/sys/fs/cgroup/a/b/memory.max" => "1000000\n",
                "/sys/fs/cgroup/memory/c/memory.limit_in_bytes" => "2000000\n",
                "/sys/fs/cgroup/free/memory.max" => "max\n",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes" => "9223372036854771712\n",
                _ => "",
            }
            .to_owned()
        };
        let table = [
            ("0::/a/b\n", Some(1_000_000)),
            ("9:name=systemd:/x\n4:memory:/c\n0::/\n", Some(2_000_000)),
            ("4:cpu,memory:/c/\n0::/a/b\n", Some(1_000_000)),
            ("0::/free\n", None),
            ("4:memory:/unlimited\n", None),
            ("garbage\n:\n", None),
        ];
        for (groups, memory) in table {
            assert_eq!(group_memory(groups, &files), memory, "{groups:?}");
        }
        assert_eq!(machine_memory("MemTotal:       1000 kB\nMemFree: 1 kB\n"), Some(819_200));
        assert_eq!(machine_memory("MemFree: 1 kB\n"), None);
        assert!(SystemFacts::read().memory.is_some_and(|memory| memory > 1 << 24));
    }

    #[test]
    fn this_machine_has_a_core() {
        assert!(!SystemFacts::read().cores.is_empty());
    }
}
