//! `server_frontend_cert`: what clients meet, for those who give them their files.

use vql::{Error, Registry, Signature};

use super::session::Session;
use crate::services::acl::Permission;

pub(super) fn register(r: &mut Registry) {
    let sig = Signature::new("server_frontend_cert", "The certificate clients meet, as PEM.");
    r.function_sync(sig, |scope, _| {
        let session = Session::with(scope, Permission::MachineState)?;
        match session.server.options.frontend_certificate.as_str() {
            "" => Err(Error::failed("the configuration holds no certificate")),
            pem => Ok(pem.into()),
        }
    });
}

#[cfg(test)]
mod tests {
    use crate::plugins::server::tests::{run_as, server_with};
    use crate::services::Options;

    #[tokio::test]
    async fn the_certificate_is_told_to_those_who_may_look_at_the_machine() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { frontend_certificate: "PEM".into(), ..Options::default() };
        let s = server_with(&dir, options).await;
        let text = "SELECT server_frontend_cert() AS C FROM scope()";
        assert_eq!(run_as(&s, "administrator", text).await.0, r#"[{"C":"PEM"}]"#);
        assert!(run_as(&s, "reader", text).await.1.contains("MACHINE_STATE"));
    }
}
