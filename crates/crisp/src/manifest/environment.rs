//! References to variables, `$(NAME)`, in commands, arguments and variables (core/v1,
//! `Container.command`).

use super::schema::EnvVar;
use std::collections::BTreeMap;

/// The variables, each with those before it put in.
pub(super) fn variables(env: &[EnvVar]) -> BTreeMap<String, String> {
    let mut known = BTreeMap::new();
    for variable in env {
        let value = expand(&variable.value, &known);
        known.insert(variable.name.clone(), value);
    }
    known
}

/// A text with the variables put in. `$$` is a dollar sign; a reference to what is not known stays as
/// it is.
pub(super) fn expand(text: &str, known: &BTreeMap<String, String>) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        rest = after;
        if let Some(after) = rest.strip_prefix('$') {
            expanded.push('$');
            rest = after;
            continue;
        }
        let reference = rest.strip_prefix('(').and_then(|name| name.split_once(')'));
        match reference.and_then(|(name, after)| Some((known.get(name)?, after))) {
            Some((value, after)) => {
                expanded.push_str(value);
                rest = after;
            }
            None => expanded.push('$'),
        }
    }
    expanded.push_str(rest);
    expanded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(name: &str, value: &str) -> EnvVar {
        EnvVar {
            name: name.to_owned(),
            value: value.to_owned(),
        }
    }

    #[test]
    fn references_are_put_in_and_unknown_ones_stay() {
        let known = variables(&[
            variable("A", "1"),
            variable("B", "$(A)2"),
            variable("C", "$(D)"),
        ]);
        assert_eq!(known["B"], "12");
        for (text, expected) in [
            ("a $(B) $(A)", "a 12 1"),
            ("$$(A)", "$(A)"),
            ("$(X) $A $", "$(X) $A $"),
            ("$(A", "$(A"),
            ("$(C)", "$(D)"),
            ("", ""),
        ] {
            assert_eq!(expand(text, &known), expected);
        }
    }
}
