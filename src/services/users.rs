//! People and API clients: their records, passwords and rights.
//!
//! A user is one record in the root organisation and one access list in each
//! organisation they belong to. Names keep the casing they were made with and
//! are found in any. Everything is read from the store and remembered for two
//! seconds, so a change made by another frontend shows within that time; a
//! change made here shows at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use velociraptor_proto::proto::{ApiClientAcl, VelociraptorUser};

use super::acl::{Permission, Policy, Role};
use super::ids::OrgId;
use crate::crypto::node::CN_PREFIX;
use crate::env::Env;
use crate::store::paths::{User, acl_dir, users_dir};
use crate::store::{StoreError, Tree};

/// How long something read is believed.
const FRESH: Duration = Duration::from_secs(2);
/// Bytes of salt in a password record.
const SALT: usize = 32;
/// Longest user name accepted, in bytes.
const MAX_NAME: usize = 200;

/// Why a user could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No such user.
    #[error("user {0} not found")]
    NotFound(String),
    /// The name is taken or reserved, or no name at all.
    #[error("{0}")]
    Invalid(String),
}

/// Who is behind a web request, once that is proved; found in its extensions. It
/// says nothing of their rights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedIn {
    /// User name as stored.
    pub name: String,
}

/// All users of this server.
#[derive(Debug)]
pub struct Users {
    tree: Tree,
    reserved: BTreeSet<String>,
    denied: BTreeSet<Permission>,
    memory: Mutex<Memory>,
    /// What users have of their own is changed by one at a time.
    own: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Memory {
    /// By lower-case name.
    records: BTreeMap<String, (Instant, Option<VelociraptorUser>)>,
    /// By organisation and lower-case name.
    acls: BTreeMap<(OrgId, String), (Instant, Option<ApiClientAcl>)>,
}

impl Users {
    /// Users of the datastore. `reserved` names can not be given to anybody;
    /// `denied` permissions are held by nobody (lockdown).
    pub fn new(
        tree: Tree,
        reserved: impl IntoIterator<Item = String>,
        denied: BTreeSet<Permission>,
    ) -> Users {
        let reserved = reserved.into_iter().map(|n| n.to_lowercase()).collect();
        Users { tree, reserved, denied, memory: Mutex::default(), own: Default::default() }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held while preferences or messages of a user are read to be changed.
    pub async fn writing(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.own.lock().await
    }

    /// Permissions nobody holds.
    pub fn denied(&self) -> &BTreeSet<Permission> {
        &self.denied
    }

    /// The record of a user, by name in any casing.
    pub async fn get(&self, name: &str) -> Result<Option<VelociraptorUser>, UserError> {
        let key = name.to_lowercase();
        if let Some((at, user)) = self.memory().records.get(&key)
            && at.elapsed() < FRESH
        {
            return Ok(user.clone());
        }
        let mut found = None;
        for stored in self.spellings(&users_dir(), name).await? {
            if let Some(mut user) = self.tree.get(&User { name: &stored }.object()).await? {
                user.name = stored;
                found = Some(user);
                break;
            }
        }
        self.memory().records.insert(key, (Instant::now(), found.clone()));
        Ok(found)
    }

    /// As [`Users::get`]; an unknown name is an error.
    pub async fn require(&self, name: &str) -> Result<VelociraptorUser, UserError> {
        self.get(name).await?.ok_or_else(|| UserError::NotFound(name.to_owned()))
    }

    /// Names stored in `dir` that are `name` in some casing, the exact one first.
    async fn spellings(
        &self,
        dir: &crate::store::DirPath,
        name: &str,
    ) -> Result<Vec<String>, UserError> {
        let key = name.to_lowercase();
        let children = self.tree.children(dir).await?;
        let mut all: Vec<_> = (children.into_iter())
            .filter(|c| !c.is_dir && c.name.to_lowercase() == key)
            .map(|c| c.name)
            .collect();
        all.sort_by_key(|n| n != name);
        Ok(all)
    }

    /// Every user in name order.
    pub async fn list(&self) -> Result<Vec<VelociraptorUser>, UserError> {
        let mut all = Vec::new();
        for child in self.tree.children(&users_dir()).await?.into_iter().filter(|c| !c.is_dir) {
            if let Some(mut user) = self.tree.get(&User { name: &child.name }.object()).await? {
                user.name = child.name;
                all.push(user);
            }
        }
        Ok(all)
    }

    /// Makes a user without password or rights.
    pub async fn create(&self, name: &str) -> Result<VelociraptorUser, UserError> {
        let bad = |c: char| c.is_control() || matches!(c, '/' | '\\');
        if name.trim().is_empty() || name.len() > MAX_NAME || name.contains(bad) {
            return Err(UserError::Invalid(format!("`{}` is no user name", name.escape_debug())));
        }
        if name.to_lowercase().starts_with(CN_PREFIX) {
            return Err(UserError::Invalid(format!("`{name}` is the name of a node")));
        }
        if self.reserved.contains(&name.to_lowercase()) {
            return Err(UserError::Invalid(format!("the name {name} is reserved")));
        }
        if self.get(name).await?.is_some() {
            return Err(UserError::Invalid(format!("user {name} exists already")));
        }
        let user = VelociraptorUser { name: name.to_owned(), ..Default::default() };
        self.set(&user).await?;
        Ok(user)
    }

    /// Stores a user's record. Organisations are a matter of access lists and
    /// are not part of it.
    pub async fn set(&self, user: &VelociraptorUser) -> Result<(), UserError> {
        let stored = VelociraptorUser {
            orgs: Vec::new(),
            current_org: String::new(),
            permissions: None,
            ..user.clone()
        };
        self.tree.set(&User { name: &user.name }.object(), &stored).await?;
        self.memory().records.insert(user.name.to_lowercase(), (Instant::now(), Some(stored)));
        Ok(())
    }

    /// Gives a user a new password; an empty one takes it away.
    pub async fn set_password(
        &self,
        env: &Env,
        name: &str,
        password: &str,
    ) -> Result<(), UserError> {
        let mut user = self.require(name).await?;
        set_password(env, &mut user, password);
        self.set(&user).await
    }

    /// A locked user can do nothing, whatever their rights.
    pub async fn set_locked(&self, name: &str, locked: bool) -> Result<(), UserError> {
        let mut user = self.require(name).await?;
        user.locked = locked;
        self.set(&user).await
    }

    /// Removes a user and their access lists in `orgs`.
    pub async fn delete(&self, name: &str, orgs: &[OrgId]) -> Result<(), UserError> {
        let user = self.require(name).await?;
        for org in orgs {
            self.remove_from(org, &user.name).await?;
        }
        self.tree.delete(&User { name: &user.name }.object()).await?;
        self.memory().records.insert(name.to_lowercase(), (Instant::now(), None));
        Ok(())
    }

    /// The stored access list of a user in an organisation.
    pub async fn acl(&self, org: &OrgId, name: &str) -> Result<Option<ApiClientAcl>, UserError> {
        let key = (org.clone(), name.to_lowercase());
        if let Some((at, acl)) = self.memory().acls.get(&key)
            && at.elapsed() < FRESH
        {
            return Ok(acl.clone());
        }
        let mut found = None;
        for stored in self.spellings(&acl_dir(org), name).await? {
            found = self.tree.get(&User { name: &stored }.acl(org)).await?;
            if found.is_some() {
                break;
            }
        }
        self.memory().acls.insert(key, (Instant::now(), found.clone()));
        Ok(found)
    }

    /// Replaces the access list of a user in an organisation.
    pub async fn set_acl(
        &self,
        org: &OrgId,
        name: &str,
        acl: &ApiClientAcl,
    ) -> Result<(), UserError> {
        let stored = ApiClientAcl { super_user: false, ..acl.clone() };
        let spelled = self.spellings(&acl_dir(org), name).await?.into_iter().next();
        let spelled = spelled.unwrap_or_else(|| name.to_owned());
        self.tree.set(&User { name: &spelled }.acl(org), &stored).await?;
        let key = (org.clone(), name.to_lowercase());
        self.memory().acls.insert(key, (Instant::now(), Some(stored)));
        Ok(())
    }

    /// Takes every right in an organisation away.
    pub async fn remove_from(&self, org: &OrgId, name: &str) -> Result<(), UserError> {
        for stored in self.spellings(&acl_dir(org), name).await? {
            self.tree.delete(&User { name: &stored }.acl(org)).await?;
        }
        let key = (org.clone(), name.to_lowercase());
        self.memory().acls.insert(key, (Instant::now(), None));
        Ok(())
    }

    /// What a user may do in an organisation: nothing when they do not exist,
    /// are locked, or have no access list there.
    pub async fn policy(&self, org: &OrgId, name: &str) -> Result<Policy, UserError> {
        match self.get(name).await? {
            Some(user) if !user.locked => {}
            _ => return Ok(Policy::none()),
        }
        let acl = self.acl(org, name).await?.unwrap_or_default();
        Ok(Policy::of(&acl, org.is_root()).locked_down(&self.denied))
    }

    /// Users with an access list in an organisation, with what it allows.
    pub async fn members(
        &self,
        org: &OrgId,
    ) -> Result<Vec<(VelociraptorUser, ApiClientAcl)>, UserError> {
        let mut all = Vec::new();
        for user in self.list().await? {
            if let Some(acl) = self.acl(org, &user.name).await? {
                all.push((user, acl));
            }
        }
        Ok(all)
    }
}

/// Reads role names; an unknown one is an error that lists the known.
pub fn parse_roles(names: &[String]) -> Result<Vec<Role>, UserError> {
    let known = || Role::ALL.map(Role::name).join(", ");
    let one = |n: &String| {
        Role::parse(n)
            .ok_or_else(|| UserError::Invalid(format!("unknown role `{n}`; known: {}", known())))
    };
    names.iter().map(one).collect()
}

/// Puts a new password into a record: SHA-256 over salt, then password. That
/// single round is the stock format.
pub fn set_password(env: &Env, user: &mut VelociraptorUser, password: &str) {
    if password.is_empty() {
        user.password_hash = Vec::new();
        user.password_salt = Vec::new();
        return;
    }
    let mut salt = vec![0; SALT];
    env.entropy.fill(&mut salt);
    user.password_hash = digest(&salt, password);
    user.password_salt = salt;
}

/// Whether the password is the user's. Locked users and users without a
/// password have none.
pub fn verify_password(user: &VelociraptorUser, password: &str) -> bool {
    let known = !user.password_hash.is_empty() && !user.locked;
    let hash = digest(&user.password_salt, password);
    verify_slices_are_equal(&hash, &user.password_hash).is_ok() && known
}

fn digest(salt: &[u8], password: &str) -> Vec<u8> {
    Sha256::new().chain_update(salt).chain_update(password).finalize().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreRoot;

    fn users(dir: &tempfile::TempDir) -> (Env, Users) {
        let env = crate::env::real::env();
        let tree = Tree::new(&env, StoreRoot::single(dir.path().to_str().unwrap()));
        (env.clone(), Users::new(tree, ["VelociraptorServer".to_owned()], BTreeSet::new()))
    }

    fn reader() -> ApiClientAcl {
        ApiClientAcl { roles: vec!["reader".into()], super_user: true, ..Default::default() }
    }

    #[tokio::test]
    async fn names_are_found_in_any_casing() {
        let dir = tempfile::tempdir().unwrap();
        let (env, u) = users(&dir);
        u.create("Mike@x.org").await.unwrap();
        assert!(matches!(u.create("mike@X.org").await, Err(UserError::Invalid(_))));
        assert!(u.create("velociraptorserver").await.is_err());
        assert!(u.create("node:b").await.is_err() && u.create("Node:").await.is_err());
        assert!(u.create("a/b").await.is_err() && u.create(" ").await.is_err());
        u.set_acl(&OrgId::root(), "mike@x.org", &reader()).await.unwrap();
        u.set_password(&env, "MIKE@x.org", "secret").await.unwrap();
        let (_, again) = users(&dir);
        let user = again.require("mike@x.ORG").await.unwrap();
        assert_eq!(user.name, "Mike@x.org");
        assert!(verify_password(&user, "secret") && !verify_password(&user, "Secret"));
        let p = again.policy(&OrgId::root(), "MIKE@X.ORG").await.unwrap();
        assert!(p.allows(Permission::ReadResults) && !p.is_super_user());
        assert!(again.policy(&OrgId::new("O1"), "mike@x.org").await.unwrap().is_empty());
        assert_eq!(again.members(&OrgId::root()).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn locked_and_deleted_users_hold_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (env, u) = users(&dir);
        u.create("a").await.unwrap();
        u.set_acl(&OrgId::root(), "a", &reader()).await.unwrap();
        u.set_password(&env, "a", "p").await.unwrap();
        u.set_locked("a", true).await.unwrap();
        assert!(u.policy(&OrgId::root(), "a").await.unwrap().is_empty());
        assert!(!verify_password(&u.require("a").await.unwrap(), "p"));
        u.set_locked("a", false).await.unwrap();
        assert!(!u.policy(&OrgId::root(), "a").await.unwrap().is_empty());
        u.delete("A", &[OrgId::root()]).await.unwrap();
        assert!(u.policy(&OrgId::root(), "a").await.unwrap().is_empty());
        assert!(u.list().await.unwrap().is_empty());
        // Rights without a record are worth nothing.
        u.set_acl(&OrgId::root(), "ghost", &reader()).await.unwrap();
        assert!(u.policy(&OrgId::root(), "ghost").await.unwrap().is_empty());
    }

    #[test]
    fn no_password_opens_nothing() {
        let mut user = VelociraptorUser::default();
        assert!(!verify_password(&user, ""));
        set_password(&crate::env::real::env(), &mut user, "x");
        assert_eq!((user.password_hash.len(), user.password_salt.len()), (32, 32));
        set_password(&crate::env::real::env(), &mut user, "");
        assert!(!verify_password(&user, ""));
    }

    #[test]
    fn unknown_roles_are_named() {
        let e = parse_roles(&["reader".into(), "king".into()]).unwrap_err();
        assert!(e.to_string().contains("king") && e.to_string().contains("investigator"));
    }
}
