//! What may stand in the texts of a request. All of them come from far away: they end in files,
//! paths and argument lists, where a line break, a NUL or a `..` means something else.

use super::{Invalid, Parsed};

/// The longest path that a system call takes, in bytes (`PATH_MAX` without its NUL, path_resolution(7)).
const PATH_BYTES_MAX: usize = 4095;
/// The longest name of a file, in bytes (`NAME_MAX`).
const NAME_BYTES_MAX: usize = 255;

/// Refuses a text for a reason, unless it is fine.
pub(super) trait RefusedText {
    fn refused_if(&self, wrong: bool, field: &str, reason: &str) -> Parsed<()>;
}

impl RefusedText for str {
    fn refused_if(&self, wrong: bool, field: &str, reason: &str) -> Parsed<()> {
        match wrong {
            true => Err(Invalid::new(field, format!("{self:?} {reason}"))),
            false => Ok(()),
        }
    }
}

/// A text that must not be left out.
pub(super) fn required(text: String, field: &str) -> Parsed<String> {
    match text.is_empty() {
        true => Err(Invalid::required(field)),
        false => Ok(text),
    }
}

/// An id or its beginning; whether one is known by it is not for here.
pub(super) fn id<'a>(given: &'a str, field: &str) -> Parsed<&'a str> {
    match given.is_empty() {
        true => Err(Invalid::required(field)),
        false => Ok(given),
    }
}

/// A text that a program gets as an argument, where NUL would end it.
pub(super) fn without_nul(text: String, field: &str) -> Parsed<String> {
    text.refused_if(text.contains('\0'), field, "holds a NUL byte")?;
    Ok(text)
}

/// A text that becomes a part of a line of a file.
pub(super) fn one_line(text: String, field: &str) -> Parsed<String> {
    let wrong = text.contains(char::is_control);
    text.refused_if(wrong, field, "holds a control character")?;
    Ok(text)
}

/// A text that becomes one word of a line of a file.
pub(super) fn one_word(text: String, field: &str) -> Parsed<String> {
    let wrong = text.is_empty() || text.contains(|c: char| c.is_control() || c.is_whitespace());
    text.refused_if(wrong, field, "is not one word")?;
    Ok(text)
}

/// An absolute path that climbs nowhere.
pub(super) fn absolute_path(path: String, field: &str) -> Parsed<String> {
    path.refused_if(!path.starts_with('/'), field, "is not an absolute path")?;
    checked_path(&path, field)?;
    without_nul(path, field)
}

/// As [`absolute_path`], or empty.
pub(super) fn absolute_path_or_empty(path: String, field: &str) -> Parsed<String> {
    match path.is_empty() {
        true => Ok(path),
        false => absolute_path(path, field),
    }
}

/// A path below another one, or empty.
pub(super) fn relative_path_or_empty(path: String, field: &str) -> Parsed<String> {
    path.refused_if(path.starts_with('/'), field, "is not a relative path")?;
    checked_path(&path, field)?;
    one_line(path, field)
}

/// A path that climbs nowhere, absolute or not.
pub(super) fn sure_path(path: String, field: &str) -> Parsed<String> {
    checked_path(&path, field)?;
    one_line(path, field)
}

/// What system calls would not take, or where they would not be kept below a directory.
fn checked_path(path: &str, field: &str) -> Parsed<()> {
    let mut components = path.split('/');
    let climbs = components.clone().any(|component| component == "..");
    path.refused_if(climbs, field, "has a component \"..\"")?;
    let long = path.len() > PATH_BYTES_MAX || components.any(|name| name.len() > NAME_BYTES_MAX);
    path.refused_if(long, field, "is longer than a path can be")
}

#[cfg(test)]
mod tests {
    use super::*;

    type Check = fn(String, &str) -> Parsed<String>;

    #[test]
    fn paths_are_no_longer_than_system_calls_take_them() {
        let name = "n".repeat(NAME_BYTES_MAX);
        let path = "/name".repeat(PATH_BYTES_MAX / 5);
        assert!(absolute_path(format!("/{name}/{name}"), "f").is_ok());
        assert!(absolute_path(path.clone(), "f").is_ok());
        for long in [format!("/{name}n"), format!("{path}/name")] {
            assert!(absolute_path(long.clone(), "f").is_err());
            assert!(relative_path_or_empty(long[1..].to_owned() + "/x", "f").is_err());
            assert!(sure_path(long, "f").is_err());
        }
    }

    #[test]
    fn texts_are_refused_where_they_would_mean_something_else() {
        let table: [(Check, &[&str], &[&str]); 8] = [
            (required, &["a"], &[""]),
            (without_nul, &["", "a\nb"], &["a\0b"]),
            (one_line, &["", "a b"], &["a\nb", "\0"]),
            (one_word, &["a"], &["", "a b", "a\n"]),
            (absolute_path, &["/", "/a..b"], &["", "a", "/a/../b", "/\0"]),
            (absolute_path_or_empty, &["", "/a"], &["a", "/.."]),
            (
                relative_path_or_empty,
                &["", "a/0.log"],
                &["/a", "../a", "a/..", "a\n"],
            ),
            (sure_path, &["a.slice", "/a/b"], &["/a/../b", "a\n"]),
        ];
        for (check, good, bad) in table {
            for text in good {
                assert_eq!(check((*text).to_owned(), "f").unwrap(), *text);
            }
            for text in bad {
                let invalid = check((*text).to_owned(), "f").unwrap_err();
                assert_eq!(invalid.field, "f", "{text:?}");
            }
        }
    }
}
