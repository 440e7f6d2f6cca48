//! What the running kernel offers.

use std::io;
use std::path::Path;

/// The actions that the kernel knows, as it spells them: `kill_process`, `errno`, `user_notif` and
/// so on. An error of kind `NotFound` means a kernel without seccomp filters.
///
/// # Errors
/// `/proc/sys/kernel/seccomp/actions_avail` cannot be read; `proc_root` is usually `/proc`.
pub fn available_actions(proc_root: &Path) -> io::Result<Vec<String>> {
    let text = std::fs::read_to_string(proc_root.join("sys/kernel/seccomp/actions_avail"))?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_of_today_can_deny_and_allow() {
        let actions = available_actions(Path::new("/proc")).unwrap();
        for action in ["errno", "allow", "kill_process"] {
            assert!(actions.iter().any(|known| known == action), "{actions:?}");
        }
    }
}
