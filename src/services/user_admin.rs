//! Who may see and change users: the rules behind the users screen, the calls of the
//! same names and their records in the audit log.
//!
//! An administrator of organisations (`ORG_ADMIN` in root) may do everything. A server
//! administrator sees and changes rights in their own organisations, and gives nobody
//! more than they hold there. Everybody sees the names of those who share an
//! organisation with them, and changes their own password. It knows no requests.

use std::sync::Arc;

use serde_json::{Value, json};
use velociraptor_proto::proto::{ApiClientAcl, OrgRecord, UserRoles, VelociraptorUser};

use super::acl::{self, Permission, Policy, Role};
use super::audit::audit;
use super::ids::OrgId;
use super::server::{Org, Server, ServiceError};
use super::users::{UserError, parse_roles};

/// Shortest password that is taken, in characters; that of stock servers.
pub const MIN_PASSWORD: usize = 4;

/// Somebody who asks about users.
#[derive(Clone, Debug)]
pub struct Asker {
    /// User name, as in audit records.
    pub name: String,
    /// What they may do in the organisation they work in.
    pub policy: Policy,
}

/// A user's rights in one organisation, as the asker may see them.
#[derive(Clone, Debug)]
pub struct Membership {
    /// The organisation.
    pub org: Arc<Org>,
    /// What is stored; nothing for an asker who does not administrate there.
    pub acl: Option<ApiClientAcl>,
}

/// A user and the organisations in which the asker sees them.
#[derive(Clone, Debug)]
pub struct Visible {
    /// The record.
    pub user: VelociraptorUser,
    /// By organisation id.
    pub member_of: Vec<Membership>,
    /// Whether the asker may set this user's password or lock them out.
    pub mine: bool,
}

impl From<UserError> for ServiceError {
    fn from(e: UserError) -> Self {
        match e {
            UserError::Store(e) => e.into(),
            UserError::NotFound(name) => ServiceError::NotFound(format!("user {name}")),
            UserError::Invalid(text) => ServiceError::Invalid(text),
        }
    }
}

/// The name of an organisation in records.
pub fn org_name(id: &OrgId) -> String {
    if id.is_root() { "root".to_owned() } else { id.id().to_owned() }
}

fn lacks(asker: &Asker, permission: Permission, org: &OrgId) -> ServiceError {
    let org = org_name(org);
    ServiceError::Denied(format!("user {} lacks {permission} in organisation {org}", asker.name))
}

/// What every user of a server may ask for.
#[derive(Debug)]
pub struct UserAdmin<'a> {
    server: &'a Server,
    asker: &'a Asker,
    /// Holds `ORG_ADMIN` in root.
    all: bool,
}

impl<'a> UserAdmin<'a> {
    /// For one request of `asker`.
    pub async fn new(server: &'a Server, asker: &'a Asker) -> Result<Self, ServiceError> {
        let root = match asker.policy.is_super_user() {
            true => asker.policy.clone(),
            false => server.users.policy(&OrgId::root(), &asker.name).await?,
        };
        Ok(Self { server, asker, all: root.allows(Permission::OrgAdmin) })
    }

    async fn policy(&self, org: &OrgId) -> Result<Policy, ServiceError> {
        match self.asker.policy.is_super_user() {
            true => Ok(self.asker.policy.clone()),
            false => Ok(self.server.users.policy(org, &self.asker.name).await?),
        }
    }

    fn org(&self, id: &str) -> Result<Arc<Org>, ServiceError> {
        let found = self.server.org(&OrgId::new(id));
        found.ok_or_else(|| ServiceError::NotFound(format!("organisation {id}")))
    }

    /// Whether they may change rights in an organisation.
    async fn governs(&self, org: &OrgId) -> Result<bool, ServiceError> {
        Ok(self.all || self.policy(org).await?.allows(Permission::ServerAdmin))
    }

    async fn audit(&self, org: &Org, operation: &str, details: Value) {
        audit(self.server, org, &self.asker.name, operation, details).await;
    }

    /// Users in `orgs`, or in every organisation if none is named, as far as the asker
    /// sees them, in name order. An administrator of organisations sees those without
    /// any rights too.
    pub async fn list(&self, orgs: &[OrgId]) -> Result<Vec<Visible>, ServiceError> {
        let mut plan = Vec::new();
        for org in self.server.orgs() {
            if !orgs.is_empty() && !orgs.contains(&org.id) {
                continue;
            }
            let governs = self.governs(&org.id).await?;
            if governs || self.policy(&org.id).await?.allows(Permission::ReadResults) {
                plan.push((org, governs));
            }
        }
        let mut out = Vec::new();
        for user in self.server.users.list().await? {
            let mut member_of = Vec::new();
            for (org, governs) in &plan {
                let acl = self.server.users.acl(&org.id, &user.name).await?;
                let Some(acl) = acl else { continue };
                let held = Policy::of(&acl, org.id.is_root());
                if held.is_empty() || (!governs && !held.allows(Permission::ReadResults)) {
                    continue;
                }
                member_of.push(Membership { org: org.clone(), acl: governs.then_some(acl) });
            }
            if member_of.is_empty() && !(self.all && orgs.is_empty()) {
                continue;
            }
            let mine = self.owns(&user).await?;
            out.push(Visible { user, member_of, mine });
        }
        Ok(out)
    }

    /// Whether the asker may act for a user as a whole: a password opens every
    /// organisation that user belongs to.
    async fn owns(&self, user: &VelociraptorUser) -> Result<bool, ServiceError> {
        if self.all {
            return Ok(true);
        }
        let mut any = false;
        for org in self.server.orgs() {
            let theirs = self.server.users.acl(&org.id, &user.name).await?.unwrap_or_default();
            let theirs = Policy::of(&theirs, org.id.is_root());
            if theirs.is_empty() {
                continue;
            }
            let own = self.policy(&org.id).await?;
            let governs = own.allows(Permission::ServerAdmin);
            if !governs || theirs.permissions().any(|p| !own.allows(p)) {
                return Ok(false);
            }
            any = true;
        }
        Ok(any)
    }

    /// Roles and permissions of a user in an organisation.
    pub async fn roles(&self, name: &str, org: &str) -> Result<UserRoles, ServiceError> {
        let org = self.org(org)?;
        let reads = self.policy(&org.id).await?.allows(Permission::ReadResults);
        if !reads && !self.governs(&org.id).await? {
            return Err(lacks(self.asker, Permission::ReadResults, &org.id));
        }
        let acl = self.server.users.acl(&org.id, name).await?.unwrap_or_default();
        let effective = Policy::of(&acl, org.id.is_root());
        let direct = ApiClientAcl { roles: Vec::new(), ..acl.clone() };
        let names =
            |p: &Policy| p.permissions().map(|p| p.name().to_owned()).collect::<Vec<String>>();
        Ok(UserRoles {
            name: name.to_owned(),
            org: org_name(&org.id),
            org_name: org.name.clone(),
            permissions: names(&Policy::of(&direct, org.id.is_root())),
            roles: acl.roles,
            effective_permissions: names(&effective),
            all_roles: Role::ALL.map(|r| r.name().to_owned()).to_vec(),
            all_permissions: Permission::ALL.map(|p| p.name().to_owned()).to_vec(),
        })
    }

    /// Replaces a user's rights in an organisation; none takes them out of it. What the
    /// access list says beside roles and permissions is kept.
    pub async fn set_roles(&self, wish: &UserRoles) -> Result<(), ServiceError> {
        let user = self.server.users.require(&wish.name).await?;
        let org = self.org(&wish.org)?;
        let acl = access_list(&wish.roles, &wish.permissions)?;
        self.grant(&user.name, &org, acl, true).await
    }

    async fn grant(
        &self,
        name: &str,
        org: &Org,
        mut acl: ApiClientAcl,
        keep_queues: bool,
    ) -> Result<(), ServiceError> {
        if !self.governs(&org.id).await? {
            return Err(lacks(self.asker, Permission::ServerAdmin, &org.id));
        }
        let before = self.server.users.acl(&org.id, name).await?.unwrap_or_default();
        if !self.all {
            // Neither more than they hold, nor from somebody who holds more.
            let own = self.policy(&org.id).await?;
            for list in [&acl, &before] {
                let held = Policy::of(list, org.id.is_root());
                if let Some(p) = held.permissions().find(|p| !own.allows(*p)) {
                    return Err(lacks(self.asker, p, &org.id));
                }
            }
        }
        if keep_queues {
            acl.publish_queues = before.publish_queues.clone();
        }
        let after = Policy::of(&acl, org.id.is_root());
        let governed = Policy::of(&before, org.id.is_root()).allows(Permission::ServerAdmin);
        if name.eq_ignore_ascii_case(&self.asker.name)
            && governed
            && !after.allows(Permission::ServerAdmin)
        {
            let text = "nobody takes their own administration away: ask another administrator";
            return Err(ServiceError::Invalid(text.into()));
        }
        match after.is_empty() {
            true => self.server.users.remove_from(&org.id, name).await?,
            false => self.server.users.set_acl(&org.id, name, &acl).await?,
        }
        let held: Vec<_> = after.permissions().map(Permission::name).collect();
        let details = json!({
            "username": name, "org": org_name(&org.id), "roles": acl.roles, "effective": held,
        });
        self.audit(org, "GrantPolicy", details).await;
        Ok(())
    }

    /// Makes a user, if they may be new, and gives them roles in organisations.
    pub async fn create(
        &self,
        name: &str,
        orgs: &[String],
        roles: &[String],
        may_be_new: bool,
        password: &str,
    ) -> Result<(), ServiceError> {
        let acl = access_list(roles, &[])?;
        if orgs.is_empty() {
            return Err(ServiceError::Invalid("no organisation is named".into()));
        }
        let orgs: Vec<_> = orgs.iter().map(|o| self.org(o)).collect::<Result<_, _>>()?;
        for org in &orgs {
            if !self.governs(&org.id).await? {
                return Err(lacks(self.asker, Permission::ServerAdmin, &org.id));
            }
        }
        if !password.is_empty() {
            check_password(password)?;
        }
        let name = name.trim();
        let known = self.server.users.get(name).await?;
        let user = match known {
            Some(user) if password.is_empty() => user,
            Some(user) => {
                let text = format!("user {} exists already", user.name);
                return Err(ServiceError::Invalid(text));
            }
            None if may_be_new => {
                let user = self.server.users.create(name).await?;
                let details = json!({ "username": user.name });
                self.audit(&self.server.root(), "CreateUser", details).await;
                user
            }
            None => return Err(ServiceError::NotFound(format!("user {name}"))),
        };
        if !password.is_empty() {
            self.server.users.set_password(&self.server.env, &user.name, password).await?;
        }
        for org in &orgs {
            self.grant(&user.name, org, acl.clone(), true).await?;
        }
        Ok(())
    }

    /// Gives a user, or the asker if none is named, a new password.
    pub async fn set_password(&self, name: &str, password: &str) -> Result<(), ServiceError> {
        check_password(password)?;
        let name = if name.is_empty() { &self.asker.name } else { name };
        let own = name.eq_ignore_ascii_case(&self.asker.name);
        let user = match self.server.users.get(name).await? {
            Some(user) if own || self.owns(&user).await? => user,
            None if self.all => return Err(ServiceError::NotFound(format!("user {name}"))),
            _ => {
                let details = json!({ "username": name });
                self.audit(&self.server.root(), "SetPasswordDenied", details).await;
                let text = format!("user {} may not set the password of {name}", self.asker.name);
                return Err(ServiceError::Denied(text));
            }
        };
        self.server.users.set_password(&self.server.env, &user.name, password).await?;
        let details = json!({ "username": user.name });
        self.audit(&self.server.root(), "SetPassword", details).await;
        Ok(())
    }

    async fn other(&self, name: &str) -> Result<VelociraptorUser, ServiceError> {
        let user = self.server.users.get(name).await?;
        let refuse =
            || ServiceError::Denied(format!("user {} may not do this to {name}", self.asker.name));
        let user = match user {
            Some(user) if self.owns(&user).await? => user,
            None if self.all => return Err(ServiceError::NotFound(format!("user {name}"))),
            _ => return Err(refuse()),
        };
        if user.name.eq_ignore_ascii_case(&self.asker.name) {
            let text = "nobody does this to themselves: ask another administrator";
            return Err(ServiceError::Invalid(text.into()));
        }
        Ok(user)
    }

    /// Locks a user out of everything, or lets them in again.
    pub async fn lock(&self, name: &str, locked: bool) -> Result<(), ServiceError> {
        let user = self.other(name).await?;
        self.server.users.set_locked(&user.name, locked).await?;
        let operation = if locked { "LockUser" } else { "UnlockUser" };
        self.audit(&self.server.root(), operation, json!({ "username": user.name })).await;
        Ok(())
    }

    /// Removes a user from everywhere.
    pub async fn delete(&self, name: &str) -> Result<(), ServiceError> {
        let user = self.other(name).await?;
        let orgs: Vec<OrgId> = self.server.orgs().iter().map(|o| o.id.clone()).collect();
        self.server.users.delete(&user.name, &orgs).await?;
        self.audit(&self.server.root(), "DeleteUser", json!({ "username": user.name })).await;
        Ok(())
    }
}

fn check_password(password: &str) -> Result<(), ServiceError> {
    if password.chars().count() < MIN_PASSWORD {
        let text = format!("a password has at least {MIN_PASSWORD} characters");
        return Err(ServiceError::Invalid(text));
    }
    Ok(())
}

fn access_list(roles: &[String], permissions: &[String]) -> Result<ApiClientAcl, ServiceError> {
    let roles = parse_roles(roles)?;
    let mut list = ApiClientAcl {
        roles: roles.iter().map(|r| r.name().to_owned()).collect(),
        ..Default::default()
    };
    for name in permissions {
        let p = Permission::parse(name)
            .ok_or_else(|| ServiceError::Invalid(format!("unknown permission `{name}`")))?;
        acl::set(&mut list, p, true);
    }
    Ok(list)
}

impl Visible {
    /// As stock servers tell it: no hashes, no rights.
    pub fn record(&self) -> VelociraptorUser {
        let orgs = (self.member_of.iter())
            .map(|m| OrgRecord {
                id: org_name(&m.org.id),
                name: m.org.name.clone(),
                ..Default::default()
            })
            .collect();
        VelociraptorUser {
            name: self.user.name.clone(),
            picture: self.user.picture.clone(),
            email: self.user.email.clone(),
            locked: self.user.locked,
            stats: self.user.stats.clone(),
            orgs,
            ..Default::default()
        }
    }
}

#[cfg(test)]
mod tests;
