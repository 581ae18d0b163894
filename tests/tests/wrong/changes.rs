//! Wrong calls that would make or change something.
use super::api::{SHOP, Table, USAGE, get, mask};
use anyhow::Result;
use syp_proto::{
    google::{
        longrunning::{CancelOperationRequest, operations_client::OperationsClient},
        r#type::Money,
    },
    v1::{
        self, AccessPolicy, CreateInstanceRequest, Instance, InstanceSpec, TransitionInstanceRequest,
        UpdateInstanceRequest, access_client::AccessClient, costs_client::CostsClient, instance::State,
        instances_client::InstancesClient,
    },
};
use syp_tests::api::{World, create};
use tonic::Code;

fn with(change: impl FnOnce(&mut InstanceSpec)) -> CreateInstanceRequest {
    let mut r = create("other");
    if let Some(spec) = r.instance.as_mut().and_then(|i| i.spec.as_mut()) {
        change(spec);
    }
    r
}

fn to(state: State) -> TransitionInstanceRequest {
    TransitionInstanceRequest { name: SHOP.into(), to: state as i32, ..Default::default() }
}

pub(super) async fn creating(w: &World, t: &mut Table) -> Result<()> {
    let mut i = InstancesClient::new(w.connect(Some("admin@example.com")).await?);
    let r = CreateInstanceRequest { instance_id: "Not A Name".into(), ..create("x") };
    t.add(
        "CreateInstance{instance_id: 'Not A Name'}",
        i.create_instance(r).await,
        (Code::InvalidArgument, USAGE, "instance_id"),
    );
    let r = CreateInstanceRequest { parent: "projects/-".into(), ..create("x") };
    t.add(
        "CreateInstance{parent: 'projects/-'}",
        i.create_instance(r).await,
        (Code::InvalidArgument, USAGE, "name one"),
    );
    let r = CreateInstanceRequest { parent: "default".into(), ..create("x") };
    t.add(
        "CreateInstance{parent: 'default'}",
        i.create_instance(r).await,
        (Code::InvalidArgument, USAGE, "projects/{project}"),
    );
    let r = CreateInstanceRequest { instance: None, ..create("x") };
    t.add("CreateInstance{}", i.create_instance(r).await, (Code::InvalidArgument, USAGE, "instance"));
    let r = CreateInstanceRequest { request_id: "1".into(), ..create("x") };
    t.add(
        "CreateInstance{request_id: '1'}",
        i.create_instance(r).await,
        (Code::InvalidArgument, USAGE, "UUID"),
    );
    let r = create("shop");
    let r = CreateInstanceRequest {
        instance: r.instance.map(|i| Instance { spec: i.spec.map(|s| InstanceSpec { port: 81, ..s }), ..i }),
        ..create("shop")
    };
    t.add(
        "CreateInstance{instance_id: 'shop', another spec}",
        i.create_instance(r).await,
        (Code::AlreadyExists, "NAME_IN_USE", "differs in: port"),
    );
    for (field, says, change) in [
        ("port: 70000", "spec.port", (|s| s.port = 70_000) as fn(&mut InstanceSpec)),
        ("port: -1", "spec.port", |s| s.port = -1),
        ("image: ''", "can't be an image", |s| s.image = String::new()),
        ("scaling: {min: -1}", "spec.scaling.min", |s| {
            s.scaling = Some(v1::Scaling { min: -1, ..Default::default() })
        }),
        ("resources: {cpu: 'x'}", "spec.resources.cpu", |s| {
            s.resources = Some(v1::Resources { cpu: "x".into(), ..Default::default() })
        }),
        ("env: {'A=B': ''}", "name of a variable", |s| drop(s.env.insert("A=B".into(), String::new()))),
        ("ttl: -1s", "spec.ttl", |s| s.ttl = Some(prost_types::Duration { seconds: -1, nanos: 0 })),
        ("cors_origins: ['*']", "not an origin", |s| s.cors_origins = vec!["*".into()]),
        ("access: a rule without members", "rule", |s| {
            s.access = Some(AccessPolicy { rules: vec![Default::default()], etag: String::new() })
        }),
        ("secrets: [{env: P}]", "spec.secrets", |s| {
            s.secrets = vec![v1::SecretRef { env: "P".into(), ..Default::default() }]
        }),
    ] {
        let input = format!("CreateInstance{{{field}}}");
        t.add(&input, i.create_instance(with(change)).await, (Code::InvalidArgument, USAGE, says));
    }
    let r = with(|s| s.target = "mars".into());
    t.add(
        "CreateInstance{target: 'mars'}",
        i.create_instance(r).await,
        (Code::InvalidArgument, "TARGET_UNKNOWN", "no target 'mars'"),
    );
    Ok(())
}

pub(super) async fn changing(w: &World, t: &mut Table) -> Result<()> {
    let c = w.connect(Some("admin@example.com")).await?;
    let (mut i, mut ops) = (InstancesClient::new(c.clone()), OperationsClient::new(c.clone()));
    let held = i.get_instance(get(SHOP)).await?.into_inner();
    let update = |path: &str, change: fn(&mut Instance)| {
        let mut new = held.clone();
        change(&mut new);
        UpdateInstanceRequest { instance: Some(new), update_mask: mask(path), ..Default::default() }
    };
    t.add(
        "UpdateInstance{update_mask: 'nonsense'}",
        i.update_instance(update("nonsense", |_| ())).await,
        (Code::InvalidArgument, USAGE, "nonsense"),
    );
    t.add(
        "UpdateInstance{etag: 'old'}",
        i.update_instance(update("labels", |i| {
            i.etag = "old".into();
            i.labels = [("a".to_owned(), "b".to_owned())].into()
        }))
        .await,
        (Code::Aborted, "ETAG_MISMATCH", "changed meanwhile"),
    );
    t.add(
        "UpdateInstance{spec.target: 'mars'}",
        i.update_instance(update("spec.target", |i| {
            if let Some(s) = &mut i.spec {
                s.target = "mars".into()
            }
        }))
        .await,
        (Code::FailedPrecondition, "IMMUTABLE_FIELD", "target"),
    );
    t.add(
        "UpdateInstance{}",
        i.update_instance(UpdateInstanceRequest::default()).await,
        (Code::InvalidArgument, USAGE, "instance"),
    );
    t.add(
        "TransitionInstance{to: PROVISIONING}",
        i.transition_instance(to(State::Provisioning)).await,
        (Code::FailedPrecondition, "TRANSITION_NOT_ALLOWED", "can't become"),
    );
    t.add(
        "TransitionInstance{to: 99}",
        i.transition_instance(TransitionInstanceRequest { to: 99, ..to(State::Draining) }).await,
        (Code::InvalidArgument, USAGE, "to"),
    );
    t.add(
        "TransitionInstance{if_state: DRAINING}",
        i.transition_instance(TransitionInstanceRequest {
            if_state: State::Draining as i32,
            ..to(State::Destroyed)
        })
        .await,
        (Code::FailedPrecondition, "STATE_DIFFERS", "SERVING"),
    );
    let r =
        v1::RollbackInstanceRequest { name: SHOP.into(), revision_id: "shop-9".into(), ..Default::default() };
    t.add(
        "RollbackInstance{revision: 'shop-9'}",
        i.rollback_instance(r).await,
        (Code::NotFound, "REVISION_NOT_FOUND", "shop-9"),
    );
    t.add(
        "CancelOperation of none",
        ops.cancel_operation(CancelOperationRequest { name: "operations/x".into() }).await,
        (Code::NotFound, "NOT_FOUND", "operations/x"),
    );
    let mut a = AccessClient::new(c.clone());
    let r = v1::SetAccessPolicyRequest { policy: Some(AccessPolicy::default()), ..Default::default() };
    t.add(
        "SetAccessPolicy{control, nobody}",
        a.set_access_policy(r).await,
        (Code::FailedPrecondition, "SELF_LOCKOUT", "could not change it back"),
    );
    let token = |ttl, name: &str| v1::CreateTokenRequest {
        parent: SHOP.into(),
        token: Some(v1::Token { display_name: name.into(), ..Default::default() }),
        ttl: Some(prost_types::Duration { seconds: ttl, nanos: 0 }),
        ..Default::default()
    };
    t.add(
        "CreateToken{ttl: 0s}",
        a.create_token(token(0, "ci")).await,
        (Code::InvalidArgument, USAGE, "1s to 365d"),
    );
    t.add(
        "CreateToken{display_name: ''}",
        a.create_token(token(60, "")).await,
        (Code::InvalidArgument, USAGE, "display_name"),
    );
    let r = v1::RevokeTokenRequest { name: "tokens/0123".into(), ..Default::default() };
    t.add(
        "RevokeToken{name: 'tokens/0123'}",
        a.revoke_token(r).await,
        (Code::NotFound, "NOT_FOUND", "tokens/0123"),
    );
    let budget = v1::Budget {
        limit: Some(Money { currency_code: "EUR".into(), units: -5, nanos: 0 }),
        period: 1,
        ..Default::default()
    };
    let r = v1::UpdateBudgetRequest { instance: SHOP.into(), budget: Some(budget), ..Default::default() };
    t.add(
        "UpdateBudget{limit: -5 EUR}",
        CostsClient::new(c).update_budget(r).await,
        (Code::InvalidArgument, USAGE, "budget"),
    );
    Ok(())
}
