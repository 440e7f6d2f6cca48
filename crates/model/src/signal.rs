//! Signals by name and number, as images and the CRI write them.

/// SIGTERM, what stops a container that asks for nothing else.
pub const SIGTERM: i32 = 15;
/// SIGKILL.
pub const SIGKILL: i32 = 9;

/// The first real-time signal that glibc leaves to programs (signal(7)).
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// Signals of x86-64 and aarch64 by number, from 1 (signal(7)).
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// The number of a signal given as `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3` or `RTMAX-1`.
#[must_use]
pub fn signal_number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=RTMAX).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(index) = NAMES.iter().position(|n| *n == name) {
        return i32::try_from(index + 1).ok();
    }
    match name {
        "POLL" => Some(29),
        "IOT" => Some(6),
        "CLD" => Some(17),
        _ => real_time(name),
    }
}

fn real_time(name: &str) -> Option<i32> {
    let (base, rest) = if let Some(rest) = name.strip_prefix("RTMIN") {
        (RTMIN, rest)
    } else {
        (RTMAX, name.strip_prefix("RTMAX")?)
    };
    // "SIGRTMINPLUS3" and "SIGRTMAXMINUS3" are the spellings of the CRI's enumeration.
    let rest = rest.replace("PLUS", "+").replace("MINUS", "-");
    let offset = if rest.is_empty() {
        0
    } else {
        rest.parse::<i32>().ok()?
    };
    let number = base + offset;
    (RTMIN..=RTMAX).contains(&number).then_some(number)
}

/// The usual name of a signal: `SIGTERM`, `SIGRTMIN+3`.
#[must_use]
pub fn signal_name(number: i32) -> String {
    match usize::try_from(number - 1).ok().and_then(|i| NAMES.get(i)) {
        Some(name) => format!("SIG{name}"),
        None if number == RTMIN => "SIGRTMIN".to_owned(),
        None if (RTMIN..=RTMAX).contains(&number) => format!("SIGRTMIN+{}", number - RTMIN),
        None => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_a_signal_is_understood() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("term", 15),
            ("9", 9),
            ("SIGQUIT", 3),
            ("SIGRTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("SIGRTMINPLUS15", 49),
            ("SIGRTMAXMINUS14", 50),
            ("SIGPOLL", 29),
        ] {
            assert_eq!(signal_number(text), Some(number), "{text}");
        }
        for bad in [
            "",
            "0",
            "65",
            "SIGFOO",
            "SIGRTMIN-1",
            "SIGRTMAX+1",
            "-9",
            "SIGRTMIN+x",
        ] {
            assert_eq!(signal_number(bad), None, "{bad}");
        }
    }

    #[test]
    fn names_and_numbers_round_trip() {
        for number in (1..=31).chain(RTMIN..=RTMAX) {
            assert_eq!(signal_number(&signal_name(number)), Some(number));
        }
    }
}
