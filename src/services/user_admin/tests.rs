use super::*;
use crate::plugins::server::tests::server;

struct Lab {
    server: Arc<Server>,
    /// A second organisation.
    org: String,
    _dir: tempfile::TempDir,
}

/// `ann` governs all, `sam` the second organisation alone, `rob` reads in both.
async fn lab() -> Lab {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir).await;
    let other = server.create_org("Second", None).await.unwrap();
    let org = other.id.id().to_owned();
    let root = OrgId::root();
    for (name, org, role) in [
        ("ann", &root, "administrator"),
        ("sam", &other.id, "administrator"),
        ("rob", &root, "reader"),
        ("rob", &other.id, "reader"),
        ("ina", &other.id, "investigator"),
    ] {
        if server.users.get(name).await.unwrap().is_none() {
            server.users.create(name).await.unwrap();
        }
        let acl = ApiClientAcl { roles: vec![role.into()], ..Default::default() };
        server.users.set_acl(org, name, &acl).await.unwrap();
    }
    Lab { server, org, _dir: dir }
}

impl Lab {
    fn asker(&self, name: &str) -> Asker {
        Asker { name: name.into(), policy: Policy::none() }
    }
}

fn wish(name: &str, org: &str, roles: &[&str], permissions: &[&str]) -> UserRoles {
    UserRoles {
        name: name.into(),
        org: org.into(),
        roles: roles.iter().map(|r| r.to_string()).collect(),
        permissions: permissions.iter().map(|r| r.to_string()).collect(),
        ..Default::default()
    }
}

#[tokio::test]
async fn everybody_sees_what_is_theirs_to_see() {
    let lab = lab().await;
    let seen = async |who: &str, orgs: &[OrgId]| {
        let asker = lab.asker(who);
        let admin = UserAdmin::new(&lab.server, &asker).await.unwrap();
        let all = admin.list(orgs).await.unwrap();
        all.into_iter()
            .map(|v| {
                let rights = v.member_of.iter().filter(|m| m.acl.is_some()).count();
                format!(
                    "{}/{}/{rights}{}",
                    v.user.name,
                    v.member_of.len(),
                    if v.mine { "*" } else { "" }
                )
            })
            .collect::<Vec<_>>()
            .join(" ")
    };
    lab.server.users.create("new").await.unwrap();
    assert_eq!(seen("ann", &[]).await, "ann/1/1* ina/1/1* new/0/0* rob/2/2* sam/1/1*");
    assert_eq!(seen("ann", &[OrgId::root()]).await, "ann/1/1* rob/1/1*");
    // `rob` is in root too, so `sam` may not act for them.
    assert_eq!(seen("sam", &[]).await, "ina/1/1* rob/1/1 sam/1/1*");
    assert_eq!(seen("rob", &[]).await, "ann/1/0 ina/1/0 rob/2/0 sam/1/0");
    assert_eq!(seen("new", &[]).await, "");
}

#[tokio::test]
async fn nobody_gives_or_takes_more_than_they_hold() {
    let lab = lab().await;
    let (ann, sam, rob) = (lab.asker("ann"), lab.asker("sam"), lab.asker("rob"));
    let ann = UserAdmin::new(&lab.server, &ann).await.unwrap();
    let sam = UserAdmin::new(&lab.server, &sam).await.unwrap();
    let rob = UserAdmin::new(&lab.server, &rob).await.unwrap();
    let org = lab.org.as_str();
    sam.set_roles(&wish("rob", org, &["reader"], &["COLLECT_CLIENT"])).await.unwrap();
    let r = rob.roles("rob", org).await.unwrap();
    assert_eq!(
        (r.roles, r.permissions),
        (vec!["reader".to_owned()], vec!["COLLECT_CLIENT".into()])
    );
    assert_eq!(r.effective_permissions, ["READ_RESULTS", "COLLECT_CLIENT"]);
    let denied = |r: Result<(), ServiceError>| matches!(r, Err(ServiceError::Denied(_)));
    // DATASTORE_ACCESS is in no role; root is not theirs.
    assert!(denied(sam.set_roles(&wish("rob", org, &[], &["DATASTORE_ACCESS"])).await));
    assert!(denied(sam.set_roles(&wish("rob", "root", &["reader"], &[])).await));
    assert!(denied(rob.set_roles(&wish("rob", org, &["administrator"], &[])).await));
    ann.set_roles(&wish("ina", org, &["investigator"], &["DATASTORE_ACCESS"])).await.unwrap();
    assert!(denied(sam.set_roles(&wish("ina", org, &["reader"], &[])).await));
    let invalid = |r: Result<(), ServiceError>| matches!(r, Err(ServiceError::Invalid(_)));
    assert!(invalid(ann.set_roles(&wish("rob", org, &["king"], &[])).await));
    assert!(invalid(ann.set_roles(&wish("rob", org, &[], &["FLY"])).await));
    assert!(invalid(ann.set_roles(&wish("ann", "root", &["reader"], &[])).await));
    // Out of it, though still a user.
    ann.set_roles(&wish("rob", "root", &[], &[])).await.unwrap();
    assert!(lab.server.users.acl(&OrgId::root(), "rob").await.unwrap().is_none());
    assert!(matches!(rob.roles("rob", "root").await, Err(ServiceError::Denied(_))));
}

#[tokio::test]
async fn users_come_and_go() {
    let lab = lab().await;
    let (ann, sam, rob) = (lab.asker("ann"), lab.asker("sam"), lab.asker("rob"));
    let ann = UserAdmin::new(&lab.server, &ann).await.unwrap();
    let sam = UserAdmin::new(&lab.server, &sam).await.unwrap();
    let rob = UserAdmin::new(&lab.server, &rob).await.unwrap();
    let org = [lab.org.clone()];
    let roles = ["analyst".to_owned()];
    sam.create("eve", &org, &roles, true, "secret").await.unwrap();
    let eve = lab.server.users.require("EVE").await.unwrap();
    assert!(crate::services::users::verify_password(&eve, "secret"));
    let err = sam.create("eve", &org, &roles, true, "other").await.unwrap_err();
    assert_eq!(err.to_string(), "user eve exists already");
    assert!(sam.create("Eve", &org, &roles, false, "").await.is_ok());
    assert!(sam.create("bob", &org, &roles, false, "").await.is_err());
    assert!(sam.create("bob", &["root".to_owned()], &roles, true, "").await.is_err());
    assert!(rob.create("bob", &org, &roles, true, "").await.is_err());
    assert!(lab.server.users.get("bob").await.unwrap().is_none());
    // Passwords: one's own, and those of people wholly governed.
    assert!(rob.set_password("", "abc").await.is_err());
    rob.set_password("", "new one").await.unwrap();
    sam.set_password("eve", "new one").await.unwrap();
    assert!(matches!(sam.set_password("rob", "xxxx").await, Err(ServiceError::Denied(_))));
    assert!(matches!(sam.set_password("ann", "xxxx").await, Err(ServiceError::Denied(_))));
    assert!(matches!(sam.set_password("nobody", "xxxx").await, Err(ServiceError::Denied(_))));
    ann.set_password("rob", "xxxx").await.unwrap();
    sam.lock("eve", true).await.unwrap();
    assert!(lab.server.users.require("eve").await.unwrap().locked);
    assert!(matches!(ann.delete("ann").await, Err(ServiceError::Invalid(_))));
    assert!(matches!(rob.delete("eve").await, Err(ServiceError::Denied(_))));
    sam.delete("eve").await.unwrap();
    assert!(lab.server.users.get("eve").await.unwrap().is_none());
}
