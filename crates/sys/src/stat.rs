//! What the kernel tells of a process or a thread in one line (proc_pid_stat(5)).

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::str::FromStr;

/// The number of the first field behind the program's name.
const FIRST: usize = 3;

/// More than a line has: fifty numbers of at most 20 digits, and a name of 64 bytes.
const LINE_BYTES: usize = 2048;

/// The fields, by their numbers in the manual page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessStat {
    /// Behind the program's name, which is in parentheses and may hold anything, parentheses and blanks
    /// too.
    fields: String,
}

impl ProcessStat {
    /// Of the process or thread that has this directory in a proc(5).
    ///
    /// # Errors
    /// It has ended, or what is read is no such line.
    pub fn read(dir: &Path) -> io::Result<Self> {
        // A file of procfs has no size to be asked for.
        let mut line = String::with_capacity(LINE_BYTES);
        let mut file = File::open(dir.join("stat"))?.take(LINE_BYTES as u64);
        file.read_to_string(&mut line)?;
        Self::parse(&line).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// None: it is no such line.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let (_, fields) = line.rsplit_once(')')?;
        Some(Self {
            fields: fields.to_owned(),
        })
    }

    /// What it does: `R`, `S`, `D`, `Z` and others.
    #[must_use]
    pub fn state(&self) -> Option<char> {
        self.field(FIRST)
    }

    /// Field 4, its parent, and those that follow. None: the kernel tells no such field, or it is of another
    /// type.
    #[must_use]
    pub fn field<T: FromStr>(&self, number: usize) -> Option<T> {
        let behind = number.checked_sub(FIRST)?;
        let field = self.fields.split_ascii_whitespace().nth(behind)?;
        field.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let stat = ProcessStat::parse("7 (a) S (b) R 3 4 -1 0\n").unwrap();
        assert_eq!(stat.state(), Some('R'));
        assert_eq!((stat.field(4), stat.field(5)), (Some(3), Some(4)));
        assert_eq!(stat.field::<u64>(6), None);
        assert_eq!(stat.field(6), Some(-1));
        assert_eq!(stat.field::<u64>(2), None);
        assert_eq!(stat.field::<u64>(8), None);
        assert_eq!(ProcessStat::parse("7"), None);
    }

    #[test]
    fn this_process_has_its_parent() {
        let stat = ProcessStat::read(Path::new("/proc/self")).unwrap();
        assert_eq!(stat.field(4), Some(std::os::unix::process::parent_id()));
        let gone = ProcessStat::read(Path::new("/proc/0"));
        assert_eq!(gone.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
