//! Who may do what: permissions, roles and the effective policy of one user in
//! one organisation. Pure tables; knows neither users nor storage.

use std::collections::BTreeSet;

use velociraptor_proto::proto::ApiClientAcl;

/// One right. Names are those of the stock server's access lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Permission {
    AnyQuery,
    ReadResults,
    LabelClient,
    CollectClient,
    CollectBasic,
    StartHunt,
    CollectServer,
    ArtifactWriter,
    ServerArtifactWriter,
    Execve,
    NotebookEditor,
    ServerAdmin,
    OrgAdmin,
    Impersonation,
    FilesystemRead,
    FilesystemWrite,
    Network,
    MachineState,
    PrepareResults,
    DeleteResults,
    DatastoreAccess,
}

use Permission::*;

impl Permission {
    /// Every permission.
    pub const ALL: [Permission; 21] = [
        AnyQuery,
        ReadResults,
        LabelClient,
        CollectClient,
        CollectBasic,
        StartHunt,
        CollectServer,
        ArtifactWriter,
        ServerArtifactWriter,
        Execve,
        NotebookEditor,
        ServerAdmin,
        OrgAdmin,
        Impersonation,
        FilesystemRead,
        FilesystemWrite,
        Network,
        MachineState,
        PrepareResults,
        DeleteResults,
        DatastoreAccess,
    ];

    /// Upper-case name.
    pub fn name(self) -> &'static str {
        match self {
            AnyQuery => "ANY_QUERY",
            ReadResults => "READ_RESULTS",
            LabelClient => "LABEL_CLIENT",
            CollectClient => "COLLECT_CLIENT",
            CollectBasic => "COLLECT_BASIC",
            StartHunt => "START_HUNT",
            CollectServer => "COLLECT_SERVER",
            ArtifactWriter => "ARTIFACT_WRITER",
            ServerArtifactWriter => "SERVER_ARTIFACT_WRITER",
            Execve => "EXECVE",
            NotebookEditor => "NOTEBOOK_EDITOR",
            ServerAdmin => "SERVER_ADMIN",
            OrgAdmin => "ORG_ADMIN",
            Impersonation => "IMPERSONATION",
            FilesystemRead => "FILESYSTEM_READ",
            FilesystemWrite => "FILESYSTEM_WRITE",
            Network => "NETWORK",
            MachineState => "MACHINE_STATE",
            PrepareResults => "PREPARE_RESULTS",
            DeleteResults => "DELETE_RESULTS",
            DatastoreAccess => "DATASTORE_ACCESS",
        }
    }

    /// Reads a name in any case.
    pub fn parse(name: &str) -> Option<Permission> {
        Permission::ALL.into_iter().find(|p| p.name().eq_ignore_ascii_case(name.trim()))
    }
}

impl std::fmt::Display for Permission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A named bundle of permissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Role {
    OrgAdmin,
    Administrator,
    Reader,
    Api,
    Analyst,
    Investigator,
    ArtifactWriter,
}

impl Role {
    /// Every role.
    pub const ALL: [Role; 7] = [
        Role::OrgAdmin,
        Role::Administrator,
        Role::Reader,
        Role::Api,
        Role::Analyst,
        Role::Investigator,
        Role::ArtifactWriter,
    ];

    /// Lower-case name.
    pub fn name(self) -> &'static str {
        match self {
            Role::OrgAdmin => "org_admin",
            Role::Administrator => "administrator",
            Role::Reader => "reader",
            Role::Api => "api",
            Role::Analyst => "analyst",
            Role::Investigator => "investigator",
            Role::ArtifactWriter => "artifact_writer",
        }
    }

    /// Reads a name in any case.
    pub fn parse(name: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|r| r.name().eq_ignore_ascii_case(name.trim()))
    }

    /// What the role grants.
    pub fn permissions(self) -> &'static [Permission] {
        match self {
            Role::OrgAdmin => &[OrgAdmin],
            Role::Administrator => &[
                AnyQuery,
                ReadResults,
                LabelClient,
                CollectClient,
                CollectBasic,
                StartHunt,
                CollectServer,
                ArtifactWriter,
                ServerArtifactWriter,
                Execve,
                NotebookEditor,
                ServerAdmin,
                OrgAdmin,
                Impersonation,
                FilesystemRead,
                FilesystemWrite,
                Network,
                MachineState,
                PrepareResults,
                DeleteResults,
            ],
            Role::Reader => &[ReadResults],
            Role::Api => &[AnyQuery, ReadResults],
            Role::Analyst => &[AnyQuery, ReadResults, LabelClient, NotebookEditor, PrepareResults],
            Role::Investigator => &[
                AnyQuery,
                ReadResults,
                LabelClient,
                CollectClient,
                StartHunt,
                NotebookEditor,
                PrepareResults,
            ],
            Role::ArtifactWriter => &[ArtifactWriter],
        }
    }
}

/// What one user may do in one organisation.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Policy {
    granted: BTreeSet<Permission>,
    publish: BTreeSet<String>,
    super_user: bool,
}

impl Policy {
    /// Nothing at all.
    pub fn none() -> Policy {
        Policy::default()
    }

    /// The server itself: everything, on every queue.
    pub fn super_user() -> Policy {
        Policy {
            granted: Permission::ALL.into_iter().collect(),
            publish: BTreeSet::new(),
            super_user: true,
        }
    }

    /// From a stored access list. The stored `super_user` mark is not honoured;
    /// organisation administration exists in the root organisation only.
    pub fn of(acl: &ApiClientAcl, in_root: bool) -> Policy {
        let mut granted: BTreeSet<_> =
            Permission::ALL.into_iter().filter(|p| stored(acl, *p)).collect();
        for role in acl.roles.iter().filter_map(|r| Role::parse(r)) {
            granted.extend(role.permissions());
        }
        if !in_root {
            granted.remove(&OrgAdmin);
        }
        let publish = acl.publish_queues.iter().cloned().collect();
        Policy { granted, publish, super_user: false }
    }

    /// Takes `denied` away, even from the super user.
    #[must_use]
    pub fn locked_down(mut self, denied: &BTreeSet<Permission>) -> Policy {
        self.granted.retain(|p| !denied.contains(p));
        self
    }

    /// Whether the permission is held.
    pub fn allows(&self, permission: Permission) -> bool {
        self.granted.contains(&permission)
    }

    /// Whether rows may be pushed to an event queue.
    pub fn may_publish(&self, queue: &str) -> bool {
        self.super_user || self.publish.contains(queue)
    }

    /// Whether this is the server itself.
    pub fn is_super_user(&self) -> bool {
        self.super_user
    }

    /// Nothing is permitted: the user does not belong to the organisation.
    pub fn is_empty(&self) -> bool {
        self.granted.is_empty() && self.publish.is_empty()
    }

    /// Everything held, in declaration order.
    pub fn permissions(&self) -> impl Iterator<Item = Permission> {
        self.granted.iter().copied()
    }

    /// The effective policy in the shape of an access list.
    pub fn to_acl(&self) -> ApiClientAcl {
        let mut acl = ApiClientAcl {
            super_user: self.super_user,
            publish_queues: self.publish.iter().cloned().collect(),
            ..Default::default()
        };
        for p in &self.granted {
            *field(&mut acl, *p) = true;
        }
        acl
    }
}

/// Marks a permission in a stored list.
pub fn set(acl: &mut ApiClientAcl, permission: Permission, held: bool) {
    *field(acl, permission) = held;
}

fn stored(acl: &ApiClientAcl, p: Permission) -> bool {
    *field(&mut acl.clone(), p)
}

fn field(acl: &mut ApiClientAcl, p: Permission) -> &mut bool {
    match p {
        AnyQuery => &mut acl.any_query,
        ReadResults => &mut acl.read_results,
        LabelClient => &mut acl.label_clients,
        CollectClient => &mut acl.collect_client,
        CollectBasic => &mut acl.collect_basic,
        StartHunt => &mut acl.start_hunt,
        CollectServer => &mut acl.collect_server,
        ArtifactWriter => &mut acl.artifact_writer,
        ServerArtifactWriter => &mut acl.server_artifact_writer,
        Execve => &mut acl.execve,
        NotebookEditor => &mut acl.notebook_editor,
        ServerAdmin => &mut acl.server_admin,
        OrgAdmin => &mut acl.org_admin,
        Impersonation => &mut acl.impersonation,
        FilesystemRead => &mut acl.filesystem_read,
        FilesystemWrite => &mut acl.filesystem_write,
        Network => &mut acl.network,
        MachineState => &mut acl.machine_state,
        PrepareResults => &mut acl.prepare_results,
        DeleteResults => &mut acl.delete_results,
        DatastoreAccess => &mut acl.datastore_access,
    }
}

/// What `lockdown: true` denies when the configuration names nothing.
pub fn default_lockdown() -> BTreeSet<Permission> {
    [
        ArtifactWriter,
        LabelClient,
        ServerArtifactWriter,
        CollectClient,
        CollectServer,
        CollectBasic,
        StartHunt,
        Execve,
        ServerAdmin,
        OrgAdmin,
        Network,
        FilesystemRead,
        FilesystemWrite,
        MachineState,
        Impersonation,
    ]
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roles(names: &[&str]) -> ApiClientAcl {
        let roles = names.iter().map(|n| n.to_string()).collect();
        ApiClientAcl { roles, ..Default::default() }
    }

    #[test]
    fn roles_expand_and_add_to_stored_marks() {
        let mut acl = roles(&["reader", "Api"]);
        acl.execve = true;
        let p = Policy::of(&acl, true);
        let held: Vec<_> = p.permissions().map(Permission::name).collect();
        assert_eq!(held, ["ANY_QUERY", "READ_RESULTS", "EXECVE"]);
        assert!(!p.allows(CollectClient));
        let back = p.to_acl();
        assert!(back.execve && back.any_query && back.read_results && !back.collect_client);
    }

    #[test]
    fn nobody_is_super_user_from_storage_and_org_admin_is_of_root() {
        let acl = ApiClientAcl { super_user: true, ..roles(&["administrator"]) };
        let p = Policy::of(&acl, false);
        assert!(!p.is_super_user() && !p.allows(OrgAdmin) && !p.allows(DatastoreAccess));
        assert!(Policy::of(&acl, true).allows(OrgAdmin));
        assert!(Policy::super_user().may_publish("Any") && !p.may_publish("Any"));
    }

    #[test]
    fn lockdown_takes_from_everybody() {
        let p = Policy::super_user().locked_down(&default_lockdown());
        assert!(!p.allows(Execve) && p.allows(ReadResults) && p.allows(DeleteResults));
    }

    #[test]
    fn permission_names_are_unique_and_read_back() {
        for p in Permission::ALL {
            assert_eq!(Permission::parse(&p.name().to_lowercase()), Some(p));
            let mut acl = ApiClientAcl::default();
            set(&mut acl, p, true);
            assert_eq!(Policy::of(&acl, true).permissions().collect::<Vec<_>>(), [p]);
        }
        for r in Role::ALL {
            assert_eq!(Role::parse(r.name()), Some(r));
        }
    }
}
