//! Limits (CRI `LinuxContainerResources`), in both directions: zero and empty mean "not asked for".

use super::text::RefusedText;
use super::{Invalid, Parsed, Within};
use crisp_cri_api::v1;
use crisp_model::{HugepageLimit, Resources, StringMap};

/// The kernel's bounds on `oom_score_adj` (proc_pid_oom_score_adj(5)).
const OOM_SCORE_ADJ_MAX: i64 = 1000;

/// The limits that a client asks for.
pub(crate) fn resources(asked: v1::LinuxContainerResources) -> Parsed<Resources> {
    Ok(Resources {
        cpu_period_us: above_zero(asked.cpu_period, "cpu_period")?,
        cpu_quota_us: bounded(asked.cpu_quota, "cpu_quota")?,
        cpu_shares: above_zero(asked.cpu_shares, "cpu_shares")?,
        memory_limit_bytes: bounded(asked.memory_limit_in_bytes, "memory_limit_in_bytes")?,
        memory_swap_limit_bytes: bounded(
            asked.memory_swap_limit_in_bytes,
            "memory_swap_limit_in_bytes",
        )?,
        oom_score_adj: oom_score_adj(asked.oom_score_adj)?,
        cpuset_cpus: cpuset(asked.cpuset_cpus, "cpuset_cpus")?,
        cpuset_mems: cpuset(asked.cpuset_mems, "cpuset_mems")?,
        hugepage_limits: hugepage_limits(asked.hugepage_limits)?,
        unified: unified(asked.unified)?,
    })
}

/// The limits that a client wants changed.
pub(crate) fn update(asked: Option<v1::LinuxContainerResources>) -> Parsed<Resources> {
    let asked = asked.ok_or_else(|| Invalid::required("linux"))?;
    resources(asked).within("linux")
}

/// The limits that a client may leave out.
pub(crate) fn limits(
    asked: Option<v1::LinuxContainerResources>,
    field: &str,
) -> Parsed<Option<Resources>> {
    asked.map(resources).transpose().within(field)
}

/// A limit, of which -1 means that there is none.
fn bounded(value: i64, field: &str) -> Parsed<Option<i64>> {
    match value {
        0 => Ok(None),
        -1.. => Ok(Some(value)),
        _ => Err(Invalid::new(field, format!("{value} is less than -1"))),
    }
}

fn above_zero(value: i64, field: &str) -> Parsed<Option<u64>> {
    let value =
        u64::try_from(value).map_err(|_| Invalid::new(field, format!("{value} is negative")))?;
    Ok((value != 0).then_some(value))
}

fn oom_score_adj(value: i64) -> Parsed<Option<i32>> {
    let reason = || format!("{value} is not between -{OOM_SCORE_ADJ_MAX} and {OOM_SCORE_ADJ_MAX}");
    let score = i32::try_from(value)
        .ok()
        .filter(|_| value.abs() <= OOM_SCORE_ADJ_MAX)
        .ok_or_else(|| Invalid::new("oom_score_adj", reason()))?;
    Ok((score != 0).then_some(score))
}

/// A list of numbers and ranges such as `0-2,7` (cpuset(7), "List format").
fn cpuset(list: String, field: &str) -> Parsed<Option<String>> {
    let number = |text: &str| text.parse::<u32>().is_ok();
    let entry = |entry: &str| match entry.split_once('-') {
        Some((first, last)) => number(first) && number(last),
        None => number(entry),
    };
    let wrong = !list.is_empty() && !list.trim().split(',').all(entry);
    list.refused_if(wrong, field, "is not a list of numbers and ranges")?;
    Ok((!list.is_empty()).then_some(list))
}

fn hugepage_limits(limits: Vec<v1::HugepageLimit>) -> Parsed<Vec<HugepageLimit>> {
    limits.into_iter().map(hugepage_limit).collect()
}

fn hugepage_limit(limit: v1::HugepageLimit) -> Parsed<HugepageLimit> {
    let size = &limit.page_size;
    let unit = size.trim_start_matches(|c: char| c.is_ascii_digit());
    let wrong = size.len() == unit.len() || !matches!(unit, "KB" | "MB" | "GB");
    size.refused_if(wrong, "hugepage_limits.page_size", "is not of the form 2MB")?;
    Ok(HugepageLimit {
        page_size: limit.page_size,
        limit_bytes: limit.limit,
    })
}

/// Keys are names of files in a cgroup's directory.
fn unified(files: StringMap) -> Parsed<StringMap> {
    for file in files.keys() {
        let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let wrong = !file.contains('.') || file.starts_with('.') || !file.chars().all(letter);
        file.refused_if(wrong, "unified", "is not the name of a cgroup file")?;
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer;

    fn full() -> v1::LinuxContainerResources {
        v1::LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: -1,
            cpu_shares: 1024,
            memory_limit_in_bytes: 64 << 20,
            oom_score_adj: -998,
            cpuset_cpus: "0-2,7".into(),
            cpuset_mems: "0".into(),
            hugepage_limits: vec![v1::HugepageLimit {
                page_size: "2MB".into(),
                limit: 4 << 20,
            }],
            unified: [("memory.high".to_owned(), "max".to_owned())].into(),
            memory_swap_limit_in_bytes: -1,
        }
    }

    #[test]
    fn every_limit_comes_back_as_it_was_sent() {
        for sent in [full(), v1::LinuxContainerResources::default()] {
            let parsed = resources(sent.clone()).unwrap();
            assert_eq!(answer::resources(&parsed), sent);
        }
    }

    #[test]
    fn what_is_zero_was_not_asked_for() {
        let parsed = resources(v1::LinuxContainerResources::default()).unwrap();
        assert_eq!(parsed, Resources::default());
    }

    #[test]
    fn an_update_names_its_limits() {
        assert_eq!(update(None).unwrap_err().to_string(), "linux: is required");
        let negative = v1::LinuxContainerResources {
            cpu_shares: -1,
            ..Default::default()
        };
        assert_eq!(
            update(Some(negative)).unwrap_err().field,
            "linux.cpu_shares"
        );
        assert!(update(Some(full())).is_ok());
    }

    #[test]
    fn limits_that_cannot_be_are_refused_by_name() {
        type Change = fn(&mut v1::LinuxContainerResources);
        let table: [(&str, Change); 14] = [
            ("cpu_period", |r| r.cpu_period = -1),
            ("cpu_shares", |r| r.cpu_shares = -5),
            ("cpu_quota", |r| r.cpu_quota = -2),
            ("memory_limit_in_bytes", |r| r.memory_limit_in_bytes = -7),
            ("memory_swap_limit_in_bytes", |r| {
                r.memory_swap_limit_in_bytes = i64::MIN;
            }),
            ("oom_score_adj", |r| r.oom_score_adj = 1001),
            ("oom_score_adj", |r| r.oom_score_adj = i64::MIN + 1),
            ("cpuset_cpus", |r| r.cpuset_cpus = "0-".into()),
            ("cpuset_mems", |r| r.cpuset_mems = "all".into()),
            ("hugepage_limits.page_size", |r| {
                r.hugepage_limits[0].page_size = "MB".into();
            }),
            ("hugepage_limits.page_size", |r| {
                r.hugepage_limits[0].page_size = "2MB/../x".into();
            }),
            ("unified", |r| {
                r.unified.insert("../memory.max".into(), "1".into());
            }),
            ("unified", |r| {
                r.unified.insert("memory".into(), "1".into());
            }),
            ("unified", |r| {
                r.unified.insert(String::new(), "1".into());
            }),
        ];
        for (field, change) in table {
            let mut asked = full();
            change(&mut asked);
            assert_eq!(resources(asked).unwrap_err().field, field);
        }
    }
}
