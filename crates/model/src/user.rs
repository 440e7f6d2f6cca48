//! Who a container runs as: users and groups by name, from an image's /etc/passwd and /etc/group.

use crate::{ContainerSecurity, GroupsPolicy};
use serde::{Deserialize, Serialize};

/// At most this much of an image's passwd or group file is read (bytes).
pub const USER_FILE_BYTES_MAX: usize = 1 << 20;
/// More lines than this are not looked at.
const LINES_MAX: usize = 10_000;
/// The kernel's limit on supplementary groups (`NGROUPS_MAX`).
const GROUPS_MAX: usize = 65_536;
/// Ids above this are refused: they overflow in programs that keep ids in a signed integer.
const ID_MAX: u32 = i32::MAX as u32;

/// An image's users and groups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserDatabase {
    users: Vec<UserEntry>,
    groups: Vec<GroupEntry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct UserEntry {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct GroupEntry {
    name: String,
    gid: u32,
    members: Vec<String>,
}

/// The ids of a container's first process (CRI `LinuxContainerUser`) and its home.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ResolvedUser {
    pub uid: u32,
    pub gid: u32,
    /// Includes `gid`, sorted.
    pub groups: Vec<u32>,
    /// Empty: unknown.
    pub home: String,
}

/// Why a user cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    #[error("user {0:?} is not in the image's /etc/passwd")]
    NoSuchUser(String),
    #[error("group {0:?} is not in the image's /etc/group")]
    NoSuchGroup(String),
    #[error("id {0} is out of range: the largest is {ID_MAX}")]
    OutOfRange(String),
    #[error("run_as_group is set without run_as_user or run_as_username")]
    GroupWithoutUser,
    #[error("more than {GROUPS_MAX} supplementary groups")]
    TooManyGroups,
}

impl UserDatabase {
    /// Reads passwd(5) and group(5) text. Lines that are malformed are passed over, as libc does.
    #[must_use]
    pub fn parse(passwd: &[u8], group: &[u8]) -> Self {
        Self {
            users: lines(passwd).filter_map(|l| user_entry(&l)).collect(),
            groups: lines(group).filter_map(|l| group_entry(&l)).collect(),
        }
    }

    /// The ids that a container's security context and its image's `USER` ask for.
    ///
    /// # Errors
    /// If a name is unknown, an id is out of range, or a group is asked for without a user.
    pub fn resolve(
        &self,
        asked: &ContainerSecurity,
        image_user: &str,
    ) -> Result<ResolvedUser, UserError> {
        let (user, group) = wanted(asked, image_user)?;
        let entry = self.user(&user);
        let uid = match (&entry, parse_id(&user)?) {
            (_, Some(uid)) => uid,
            (Some(entry), None) => checked(entry.uid)?,
            (None, None) => return Err(UserError::NoSuchUser(user)),
        };
        let gid = match group {
            Some(group) => self.group(&group)?,
            None => checked(entry.map_or(0, |e| e.gid))?,
        };
        Ok(ResolvedUser {
            uid,
            gid,
            groups: self.groups_of(entry, gid, asked)?,
            home: entry.map(|e| e.home.clone()).unwrap_or_default(),
        })
    }

    fn user(&self, user: &str) -> Option<&UserEntry> {
        let uid = user.parse::<u32>().ok();
        self.users
            .iter()
            .find(|e| uid.map_or(e.name == user, |uid| e.uid == uid))
    }

    fn group(&self, group: &str) -> Result<u32, UserError> {
        if let Some(gid) = parse_id(group)? {
            return Ok(gid);
        }
        let entry = self.groups.iter().find(|g| g.name == group);
        let entry = entry.ok_or_else(|| UserError::NoSuchGroup(group.to_owned()))?;
        checked(entry.gid)
    }

    fn groups_of(
        &self,
        user: Option<&UserEntry>,
        gid: u32,
        asked: &ContainerSecurity,
    ) -> Result<Vec<u32>, UserError> {
        let mut groups = vec![gid];
        for id in &asked.supplemental_groups {
            groups.push(checked(*id)?);
        }
        if let (GroupsPolicy::Merge, Some(user)) = (asked.groups_policy, user) {
            let member = |g: &&GroupEntry| g.members.contains(&user.name);
            for group in self.groups.iter().filter(member) {
                groups.push(checked(group.gid)?);
            }
        }
        groups.sort_unstable();
        groups.dedup();
        if groups.len() > GROUPS_MAX {
            return Err(UserError::TooManyGroups);
        }
        Ok(groups)
    }
}

/// The user and group as text: the CRI's when it names a user, else the image's `USER`.
fn wanted(
    asked: &ContainerSecurity,
    image_user: &str,
) -> Result<(String, Option<String>), UserError> {
    let group = asked.run_as_group.map(|g| g.to_string());
    if let Some(uid) = asked.run_as_user {
        return Ok((uid.to_string(), group));
    }
    if !asked.run_as_username.is_empty() {
        return Ok((asked.run_as_username.clone(), group));
    }
    if group.is_some() {
        return Err(UserError::GroupWithoutUser);
    }
    let (user, group) = match image_user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (image_user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let group = group.filter(|g| !g.is_empty()).map(str::to_owned);
    Ok((user.to_owned(), group))
}

/// A numeric id; none: a name. A number that is no id is an error, never a name and never root.
fn parse_id(text: &str) -> Result<Option<u32>, UserError> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    let id = text.parse::<u32>();
    let id = id.map_err(|_| UserError::OutOfRange(text.to_owned()))?;
    checked(id).map(Some)
}

fn checked(id: u32) -> Result<u32, UserError> {
    if id > ID_MAX {
        return Err(UserError::OutOfRange(id.to_string()));
    }
    Ok(id)
}

fn lines(file: &[u8]) -> impl Iterator<Item = String> + '_ {
    file.split(|b| *b == b'\n')
        .take(LINES_MAX)
        .map(|line| String::from_utf8_lossy(line).trim().to_owned())
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn user_entry(line: &str) -> Option<UserEntry> {
    let mut fields = line.split(':');
    let name = fields.next()?.to_owned();
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    let home = fields.nth(1).unwrap_or_default().to_owned();
    Some(UserEntry {
        name,
        uid,
        gid,
        home,
    })
}

fn group_entry(line: &str) -> Option<GroupEntry> {
    let mut fields = line.split(':');
    let name = fields.next()?.to_owned();
    let gid = fields.nth(1)?.parse().ok()?;
    let members = fields.next().unwrap_or_default();
    let members = members.split(',').map(|m| m.trim().to_owned()).collect();
    Some(GroupEntry { name, gid, members })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\nwww:x:33:33:www:/var/www:/bin/false\n\
        broken line\nme:x:1000:1001:Me:/home/me:/bin/sh\nbig:x:4294967295:1::/:\n\
        many:x:5:5::/:\n";
    const GROUP: &[u8] = b"root:x:0:\nwww:x:33:\nstaff:x:50:me,root\nextra:x:50000:me\n\
        huge:x:4294967295:many\n";

    fn resolve(asked: &ContainerSecurity, image_user: &str) -> Result<ResolvedUser, UserError> {
        UserDatabase::parse(PASSWD, GROUP).resolve(asked, image_user)
    }

    fn ids(image_user: &str) -> (u32, u32, Vec<u32>) {
        let user = resolve(&ContainerSecurity::default(), image_user).unwrap();
        (user.uid, user.gid, user.groups)
    }

    #[test]
    fn the_user_of_an_image_is_resolved_by_name_and_id() {
        assert_eq!(ids(""), (0, 0, vec![0, 50]));
        assert_eq!(ids("www"), (33, 33, vec![33]));
        assert_eq!(ids("1000"), (1000, 1001, vec![50, 1001, 50000]));
        assert_eq!(ids("me:staff"), (1000, 50, vec![50, 50000]));
        assert_eq!(ids("77"), (77, 0, vec![0]));
        assert_eq!(ids("77:88"), (77, 88, vec![88]));
    }

    #[test]
    fn the_security_context_goes_before_the_image() {
        let mut asked = ContainerSecurity {
            run_as_username: "me".into(),
            supplemental_groups: vec![7],
            ..Default::default()
        };
        assert_eq!(
            resolve(&asked, "www").unwrap().groups,
            vec![7, 50, 1001, 50000]
        );
        asked.groups_policy = GroupsPolicy::Strict;
        assert_eq!(resolve(&asked, "www").unwrap().groups, vec![7, 1001]);
        asked.run_as_group = Some(9);
        assert_eq!(resolve(&asked, "www").unwrap().gid, 9);
    }

    #[test]
    fn what_overflows_or_is_unknown_is_an_error_and_never_root() {
        let none = ContainerSecurity::default();
        assert_eq!(
            resolve(&none, "ghost"),
            Err(UserError::NoSuchUser("ghost".into()))
        );
        assert_eq!(
            resolve(&none, "me:ghost"),
            Err(UserError::NoSuchGroup("ghost".into()))
        );
        for big in ["4294967296", "2147483648", "-1", "99999999999999999999"] {
            assert_eq!(resolve(&none, big), Err(UserError::OutOfRange(big.into())));
        }
        // In the image's files too: the kernel takes 4294967295 for "as it is", which is root.
        for out_of_range in ["big", "many", "www:huge"] {
            assert_eq!(
                resolve(&none, out_of_range),
                Err(UserError::OutOfRange("4294967295".into()))
            );
        }
        let group_only = ContainerSecurity {
            run_as_group: Some(1),
            ..Default::default()
        };
        assert_eq!(resolve(&group_only, "me"), Err(UserError::GroupWithoutUser));
    }
}
