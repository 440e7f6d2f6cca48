//! The forms of the kernel's files (Documentation/admin-guide/cgroup-v2.rst, "Format"). No I/O.

/// Version 1 writes "unlimited" as the largest multiple of the page size in an i64; pages are at most
/// 64 KiB.
const V1_UNLIMITED_FROM: u64 = 0x7fff_ffff_ffff_0000;

/// A single number.
pub(crate) fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// A single number, or `max`, `-1` or version 1's largest number for none. The outer option is None
/// when it is neither.
pub(crate) fn limit(text: &str) -> Option<Option<u64>> {
    match text.trim() {
        "max" | "-1" => Some(None),
        text => Some(finite(text.parse().ok()?)),
    }
}

/// A limit, unless it is version 1's number for none.
pub(crate) fn finite(limit: u64) -> Option<u64> {
    Some(limit).filter(|limit| *limit < V1_UNLIMITED_FROM)
}

/// `quota period` of version 2's `cpu.max`.
pub(crate) fn cpu_max(text: &str) -> Option<(Option<u64>, u64)> {
    let (quota, period) = text.trim().split_once(' ')?;
    Some((limit(quota)?, period.parse().ok()?))
}

/// One `key value` per line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FlatKeyed<'a>(pub(crate) &'a str);

impl FlatKeyed<'_> {
    /// The values of several keys, found in one pass: `memory.stat` has a hundred lines.
    pub(crate) fn each<const N: usize>(self, keys: [&str; N]) -> [Option<u64>; N] {
        let mut values = [None; N];
        for (key, value) in self.0.lines().filter_map(|line| line.split_once(' ')) {
            if let Some(place) = keys.iter().position(|wanted| *wanted == key) {
                values[place] = value.trim().parse().ok();
            }
        }
        values
    }

    pub(crate) fn get(self, key: &str) -> Option<u64> {
        let [value] = self.each([key]);
        value
    }

    /// For keys that not every kernel has.
    pub(crate) fn or_zero(self, key: &str) -> u64 {
        self.get(key).unwrap_or(0)
    }
}

/// A device's numbers, `8:16`.
pub(crate) fn device(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// `size` of a file named `hugetlb.<size>.<suffix>`.
pub(crate) fn hugepage_size<'a>(file: &'a str, suffix: &str) -> Option<&'a str> {
    let size = file
        .strip_prefix("hugetlb.")?
        .strip_suffix(suffix)?
        .strip_suffix('.')?;
    Some(size).filter(|size| !size.contains('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_three_words_for_none() {
        let table = [
            ("max\n", Some(None)),
            ("-1\n", Some(None)),
            ("9223372036854771712\n", Some(None)),
            ("9223372036854710272\n", Some(None)),
            ("4096\n", Some(Some(4096))),
            ("0\n", Some(Some(0))),
            ("", None),
            ("4k", None),
        ];
        for (text, expected) in table {
            assert_eq!(limit(text), expected, "{text:?}");
        }
    }

    #[test]
    fn cpu_max_has_two_fields() {
        assert_eq!(cpu_max("max 100000\n"), Some((None, 100_000)));
        assert_eq!(cpu_max("5000 10000\n"), Some((Some(5000), 10_000)));
        for text in ["", "max", "x 1", "1 max"] {
            assert_eq!(cpu_max(text), None, "{text:?}");
        }
    }

    #[test]
    fn keys_match_as_a_whole() {
        let file = FlatKeyed("pgmajfault 3\npgfault 7\ntorn");
        assert_eq!(file.get("pgfault"), Some(7));
        assert_eq!(file.get("pg"), None);
        assert_eq!(file.get("torn"), None);
        assert_eq!(file.or_zero("missing"), 0);
        assert_eq!(file.each(["pgfault", "torn"]), [Some(7), None]);
    }

    #[test]
    fn hugepage_sizes_are_between_dots() {
        let table = [
            ("hugetlb.2MB.current", Some("2MB")),
            ("hugetlb.2MB.rsvd.current", None),
            ("hugetlb.2MB.max", None),
            ("memory.current", None),
        ];
        for (file, size) in table {
            assert_eq!(hugepage_size(file, "current"), size, "{file}");
        }
    }
}
