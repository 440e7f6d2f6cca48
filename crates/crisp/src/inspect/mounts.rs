//! What is mounted where in a container, from proc_pid_mountinfo(5).

use crate::text::Table;
use std::fs;

/// The mounts that a process sees; none when it has just ended.
pub(super) fn of(pid: u32) -> Option<Table> {
    let text = fs::read_to_string(format!("/proc/{pid}/mountinfo")).ok()?;
    Some(table(&text))
}

fn table(mountinfo: &str) -> Table {
    let mut table = Table::titled(&["PATH", "TYPE", "ACCESS", "SOURCE"]);
    let mut rows: Vec<[String; 4]> = mountinfo.lines().filter_map(row).collect();
    // A path that is mounted over more than once keeps its order.
    rows.sort_by(|a, b| a[0].cmp(&b[0]));
    rows.into_iter().for_each(|row| table.row(row));
    table
}

/// `36 35 98:0 /root /path rw,noatime shared:1 - ext4 /dev/sda rw`
fn row(line: &str) -> Option<[String; 4]> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(3);
    let (root, path, options) = (mount.next()?, mount.next()?, mount.next()?);
    let mut file_system = file_system.split(' ');
    let (kind, source) = (file_system.next()?, file_system.next()?);
    let access = options.split(',').next()?;
    let source = match root {
        "/" => plain(source),
        // Its own cgroup, whose path is told elsewhere.
        _ if kind.starts_with("cgroup") => plain(source),
        part => format!("{} of {}", plain(part), plain(source)),
    };
    Some([plain(path), kind.to_owned(), access.to_owned(), source])
}

/// A path with the letters that the kernel writes in octal (`\040` is a blank).
fn plain(path: &str) -> String {
    let mut text = String::new();
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('\\') {
        text.push_str(before);
        let code = after
            .get(..3)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                let letter = char::from(code);
                text.push(if letter.is_control() { '?' } else { letter });
                rest = &after[3..];
            }
            None => {
                text.push('\\');
                rest = after;
            }
        }
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_told_with_their_source() {
        let text = "\
            21 20 0:4 / / rw,relatime - overlay overlay rw,lowerdir=/x\n\
            22 21 8:1 /srv/a\\040b /srv ro,noatime shared:5 master:1 - ext4 /dev/vda rw\n\
            broken\n";
        assert_eq!(
            table(text).render(0),
            "PATH   TYPE      ACCESS   SOURCE\n\
             /      overlay   rw       overlay\n\
             /srv   ext4      ro       /srv/a b of /dev/vda\n"
        );
    }

    #[test]
    fn letters_in_octal_are_read() {
        assert_eq!(plain("/a\\040b\\134\\011"), "/a b\\?");
        assert_eq!(plain("/a\\9"), "/a\\9");
    }
}
