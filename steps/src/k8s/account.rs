//! The pods' service account: it has no rights and no token.
use super::{
    client::{Kind, SERVICE_ACCOUNT},
    one::Manifest,
};
use serde_json::{Value, json};
use syp_engine::step::StepCx;

pub(super) struct Account;

impl Manifest for Account {
    const STEP: &'static str = "k8s.account@1";
    const KIND: Kind = SERVICE_ACCOUNT;

    fn rest(_: &StepCx) -> Value {
        json!({ "automountServiceAccountToken": false })
    }
}
