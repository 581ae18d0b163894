//! What things of an instance are called at AWS. All begin with what the policies of `bootstrap.yaml` allow.
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use syp_engine::step::Owner;

/// The gate's port, the only one that the load balancer reaches.
pub const TRAFFIC: u16 = 8443;
/// The gate's program in its image.
pub const PROGRAM: &str = "/syp-gate";
/// Where the gate listens to nobody but its own task.
pub const ADMIN: u16 = 9901;

/// `STORE-UID`, of 25 characters: a load balancer's name may have 32, and two engines share an account.
pub fn id(owner: &Owner) -> String {
    format!("{}-{}", owner.store, owner.uid.short())
}

/// Of the stack, the load balancer, the target group and the task definition's family.
pub fn stack(owner: &Owner) -> String {
    format!("sypctl-{}", id(owner))
}

/// Of the log group.
pub fn logs(owner: &Owner) -> String {
    format!("/sypctl/{}", id(owner))
}

/// Of the login for a registry, as `docker login` names it: images of one registry share it.
pub fn pull(server: &str) -> String {
    format!("pull-{}", hex::encode(&Sha256::digest(server)[..4]))
}

/// Of a secret: `gate`, `app-N` of a revision, or [`pull`].
pub fn secret(owner: &Owner, which: &str) -> String {
    format!("sypctl/{}/{which}", id(owner))
}

/// What a token of a request may hold. Pure.
pub fn word(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(100).collect()
}

/// Ports in a task that are not our own. Pure.
pub fn without_own(ports: &BTreeSet<u16>) -> BTreeSet<u16> {
    ports.iter().copied().filter(|p| ![TRAFFIC, ADMIN].contains(p)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use syp_engine::id::{InstanceId, StoreId};

    #[test]
    fn a_load_balancer_can_have_the_name_of_the_stack() {
        let owner = Owner {
            store: StoreId::random(),
            uid: InstanceId::random(),
            name: "a-name-as-long-as-anybody-likes".into(),
            revision: String::new(),
        };
        let name = stack(&owner);
        assert!(name.len() <= 32 && name.starts_with("sypctl-"), "{name}");
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'), "{name}");
    }
}
