//! Users and their rights.

use super::*;

/// A user by name.
#[derive(Clone, Copy, Debug)]
pub struct User<'a> {
    /// Login name.
    pub name: &'a str,
}

/// Where users are (root organisation only).
pub fn users_dir() -> DirPath {
    DirPath::objects(PathSpec::escaped(&Org::root(), ObjectDir, &["users"]))
}

/// Where an organisation's rights are.
pub fn acl_dir(org: &Org) -> DirPath {
    DirPath::objects(PathSpec::escaped(org, ObjectDir, &["acl"]))
}

impl User<'_> {
    fn at(&self, kind: PathType, components: &[&str]) -> PathSpec {
        PathSpec::escaped(&Org::root(), kind, &["users"]).child(components)
    }

    /// The account.
    pub fn object(&self) -> ObjectPath<proto::VelociraptorUser> {
        ObjectPath::new(self.at(ObjectProto, &[self.name]))
    }

    /// Preferences.
    pub fn gui_options(&self) -> ObjectPath<proto::SetGuiOptionsRequest> {
        ObjectPath::new(self.at(ObjectJson, &["gui", self.name]))
    }

    /// Rights in one organisation.
    pub fn acl(&self, org: &Org) -> ObjectPath<proto::ApiClientAcl> {
        ObjectPath::new(PathSpec::escaped(org, ObjectJson, &["acl", self.name]))
    }

    /// Clients looked at lately.
    pub fn recent_dir(&self, org: &Org) -> DirPath {
        DirPath::objects(PathSpec::escaped(org, ObjectDir, &["users", self.name, "mru"]))
    }

    /// One client looked at lately.
    pub fn recent(&self, org: &Org, client: &str) -> ObjectPath<proto::ApiClient> {
        let c = ["users", self.name, "mru", client];
        ObjectPath::new(PathSpec::escaped(org, ObjectProto, &c))
    }

    /// Saved collections of one artifact type.
    pub fn favorites_dir(&self, org: &Org, kind: &str) -> DirPath {
        let c = ["users", self.name, "Favorites", kind];
        DirPath::objects(PathSpec::escaped(org, ObjectDir, &c))
    }

    /// One saved collection.
    pub fn favorite(&self, org: &Org, kind: &str, name: &str) -> ObjectPath<proto::Favorite> {
        let c = ["users", self.name, "Favorites", kind, name];
        ObjectPath::new(PathSpec::escaped(org, ObjectJson, &c))
    }

    /// Messages to the user.
    pub fn notifications(&self) -> FilePath {
        FilePath(self.at(Json, &[self.name, "Notifications"]))
    }

    /// The notebooks shared with the user.
    pub fn notebook_index(&self, org: &Org) -> FilePath {
        FilePath(PathSpec::verbatim(org, Json, &["notebooks", "indexes", self.name]))
    }
}
