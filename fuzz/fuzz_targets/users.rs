//! An image's /etc/passwd and /etc/group and the user that it names, parted by zero bytes.
#![no_main]

use crisp_model::{ContainerSecurity, UserDatabase};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut parts = input.splitn(3, |byte| *byte == 0);
    let mut part = || parts.next().unwrap_or_default();
    let (passwd, group, user) = (part(), part(), String::from_utf8_lossy(part()));
    let users = UserDatabase::parse(passwd, group);
    if let Ok(user) = users.resolve(&ContainerSecurity::default(), &user) {
        // -1 would leave a process the ids that it has: root's.
        let ids = user.groups.iter().chain([&user.uid, &user.gid]);
        assert!(
            ids.into_iter().all(|id| i32::try_from(*id).is_ok()),
            "{user:?}"
        );
        assert!(user.groups.contains(&user.gid));
    }
});
