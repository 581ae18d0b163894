//! Wrong calls of the API, over gRPC.
use super::{Line, changes};
use anyhow::{Result, ensure};
use syp_proto::{
    google::longrunning::{GetOperationRequest, ListOperationsRequest, operations_client::OperationsClient},
    v1::{
        self, GetInstanceRequest, Instance, ListInstancesRequest, access_client::AccessClient,
        audit_client::AuditClient, costs_client::CostsClient, instances_client::InstancesClient,
        metrics_client::MetricsClient, providers_client::ProvidersClient,
    },
};
use syp_tests::api::{World, create};
use tonic::{Code, Response, Status};
use tonic_types::StatusExt;

pub(super) const SHOP: &str = "projects/default/instances/shop";
pub(super) const USAGE: &str = "INVALID_ARGUMENT";

/// Lines of the table, and what was not as expected.
pub(super) struct Table(Vec<Line>, Vec<String>);

// === impl Table ===

impl Table {
    pub(super) fn add<T>(
        &mut self,
        input: &str,
        said: Result<Response<T>, Status>,
        wanted: (Code, &str, &str),
    ) {
        let s = match said {
            Ok(_) => return self.1.push(format!("{input}: it was accepted")),
            Err(s) => s,
        };
        let details = s.get_error_details();
        let info = details.error_info();
        let reason = info.map(|i| i.reason.clone()).unwrap_or_default();
        let next = info.and_then(|i| i.metadata.get("hint").cloned()).unwrap_or_default();
        let right = s.code() == wanted.0 && reason == wanted.1 && s.message().contains(wanted.2);
        if !right || s.message().len() <= 12 || next.len() <= 12 {
            self.1.push(format!(
                "{input}: expected {wanted:?}, got {:?} {reason}: {} (next: {next})",
                s.code(),
                s.message()
            ));
        }
        let code = format!("{:?}", s.code());
        self.0.push(Line { input: input.into(), code, reason, message: s.message().into(), next });
    }
}

pub(super) fn mask(path: &str) -> Option<prost_types::FieldMask> {
    Some(prost_types::FieldMask { paths: vec![path.into()] })
}

pub(super) fn get(name: &str) -> GetInstanceRequest {
    GetInstanceRequest { name: name.into(), read_mask: None }
}

/// All that a wrong call could have changed.
async fn everything(w: &World) -> Result<String> {
    let c = w.connect(Some("admin@example.com")).await?;
    let (mut i, mut ops) = (InstancesClient::new(c.clone()), OperationsClient::new(c.clone()));
    let list =
        ListInstancesRequest { parent: "projects/-".into(), show_destroyed: true, ..Default::default() };
    let mut all = i.list_instances(list).await?.into_inner().instances;
    all.iter_mut().for_each(|i| i.cost = None);
    let events = v1::ListInstanceEventsRequest { parent: SHOP.into(), page_size: 1000, ..Default::default() };
    let events = i.list_instance_events(events).await?.into_inner().events;
    let ask = ListOperationsRequest { name: "operations".into(), ..Default::default() };
    let operations = ops.list_operations(ask).await?.into_inner().operations;
    // not the result: it has the cost, which goes on
    let operations: Vec<_> = operations.into_iter().map(|o| (o.name, o.done, o.metadata)).collect();
    let tokens = v1::ListTokensRequest { parent: "projects/-".into(), ..Default::default() };
    let tokens = AccessClient::new(c).list_tokens(tokens).await?.into_inner().tokens;
    let mut cloud: Vec<_> = w.cloud.live().iter().map(|o| format!("{o:?}")).collect();
    cloud.sort();
    Ok(format!("{all:#?}\n{events:#?}\n{operations:?}\n{tokens:#?}\n{cloud:#?}"))
}

/// The table.
pub async fn lines() -> Result<Vec<Line>> {
    let w = World::serving("shop").await?;
    let before = everything(&w).await?;
    let mut t = Table(vec![], vec![]);
    Box::pin(changes::creating(&w, &mut t)).await?;
    Box::pin(changes::changing(&w, &mut t)).await?;
    asking(&w, &mut t).await?;
    strangers(&w, &mut t).await?;
    ensure!(t.1.is_empty(), "{}", t.1.join("\n"));
    let after = everything(&w).await?;
    let changed = before.lines().zip(after.lines()).find(|(b, a)| b != a);
    ensure!(before == after, "something has changed: {changed:?}");
    Ok(t.0)
}

async fn asking(w: &World, t: &mut Table) -> Result<()> {
    let c = w.connect(Some("admin@example.com")).await?;
    let mut i = InstancesClient::new(c.clone());
    t.add(
        "GetInstance{name: '.../nope'}",
        i.get_instance(get("projects/default/instances/nope")).await,
        (Code::NotFound, "NOT_FOUND", "nope"),
    );
    t.add(
        "GetInstance{name: 'shop'}",
        i.get_instance(get("shop")).await,
        (Code::InvalidArgument, USAGE, "projects/{project}/instances/{name}"),
    );
    t.add(
        "GetInstance{read_mask: 'nonsense'}",
        i.get_instance(GetInstanceRequest { read_mask: mask("nonsense"), ..get(SHOP) }).await,
        (Code::InvalidArgument, USAGE, "nonsense"),
    );
    let list = |filter: &str, page_token: &str| ListInstancesRequest {
        parent: "projects/default".into(),
        filter: filter.into(),
        page_token: page_token.into(),
        ..Default::default()
    };
    t.add(
        "ListInstances{filter: 'colour=red'}",
        i.list_instances(list("colour=red", "")).await,
        (Code::InvalidArgument, USAGE, "colour"),
    );
    t.add(
        "ListInstances{page_token: 'x'}",
        i.list_instances(list("", "x")).await,
        (Code::InvalidArgument, USAGE, "page_token"),
    );
    let logs = v1::StreamLogsRequest { name: SHOP.into(), tail: -1, ..Default::default() };
    t.add("StreamLogs{tail: -1}", i.stream_logs(logs).await, (Code::InvalidArgument, USAGE, "tail"));
    let watch = v1::WatchInstanceEventsRequest { parent: SHOP.into(), resume_token: "x".into() };
    t.add(
        "WatchInstanceEvents{resume_token: 'x'}",
        i.watch_instance_events(watch).await,
        (Code::InvalidArgument, USAGE, "resume_token"),
    );
    let op = GetOperationRequest { name: "operations/0123456789abcdef0123456789abcdef-7".into() };
    t.add(
        "GetOperation of none",
        OperationsClient::new(c.clone()).get_operation(op).await,
        (Code::NotFound, "NOT_FOUND", "operations/"),
    );
    let metrics = v1::QueryMetricsRequest {
        name: SHOP.into(),
        step: Some(prost_types::Duration { seconds: 0, nanos: 1 }),
        ..Default::default()
    };
    t.add(
        "QueryMetrics{step: 1ns}",
        MetricsClient::new(c.clone()).query_metrics(metrics).await,
        (Code::InvalidArgument, USAGE, "step"),
    );
    let costs = v1::QueryCostsRequest { group_by: vec!["colour".into()], ..Default::default() };
    t.add(
        "QueryCosts{group_by: 'colour'}",
        CostsClient::new(c.clone()).query_costs(costs).await,
        (Code::InvalidArgument, USAGE, "colour"),
    );
    let audit = v1::ListAuditEventsRequest { filter: "outcome=Fine".into(), ..Default::default() };
    t.add(
        "ListAuditEvents{filter: 'outcome=Fine'}",
        AuditClient::new(c.clone()).list_audit_events(audit).await,
        (Code::InvalidArgument, USAGE, "no outcome"),
    );
    let sweep = v1::SweepOrphansRequest { provider: "mars".into(), ..Default::default() };
    t.add(
        "SweepOrphans{provider: 'mars'}",
        ProvidersClient::new(c.clone()).sweep_orphans(sweep).await,
        (Code::InvalidArgument, "TARGET_UNKNOWN", "mars"),
    );
    let check = v1::CheckProviderRequest { name: "providers/mars".into(), ..Default::default() };
    t.add(
        "CheckProvider{name: 'providers/mars'}",
        ProvidersClient::new(c.clone()).check_provider(check).await,
        (Code::InvalidArgument, "TARGET_UNKNOWN", "mars"),
    );
    let much = v1::InstanceSpec {
        resources: Some(v1::Resources { memory: "much".into(), ..Default::default() }),
        ..Default::default()
    };
    let check = v1::CheckProviderRequest {
        name: "providers/fake".into(),
        for_spec: Some(much),
        ..Default::default()
    };
    t.add(
        "CheckProvider{for_spec.resources.memory: 'much'}",
        ProvidersClient::new(c.clone()).check_provider(check).await,
        (Code::InvalidArgument, USAGE, "for_spec.resources.memory"),
    );
    let unknown = tonic::codegen::http::uri::PathAndQuery::from_static("/syp.v1.Instances/Frobnicate");
    let codec = tonic_prost::ProstCodec::<GetInstanceRequest, Instance>::default();
    let mut raw = tonic::client::Grpc::new(c.clone());
    raw.ready().await?;
    t.add(
        "syp.v1.Instances/Frobnicate",
        raw.unary(tonic::Request::new(get(SHOP)), unknown, codec).await,
        (Code::Unimplemented, "NOT_SUPPORTED", "Frobnicate"),
    );
    raw.ready().await?;
    // a string where a message belongs
    let path = tonic::codegen::http::uri::PathAndQuery::from_static("/syp.v1.Instances/UpdateInstance");
    let codec = tonic_prost::ProstCodec::<GetInstanceRequest, Instance>::default();
    t.add(
        "UpdateInstance with bytes that are none",
        raw.unary(tonic::Request::new(get("\u{1}\u{2}")), path, codec).await,
        (Code::InvalidArgument, USAGE, "message"),
    );
    Ok(())
}

async fn strangers(w: &World, t: &mut Table) -> Result<()> {
    let mut nobody = InstancesClient::new(w.connect(None).await?);
    t.add(
        "GetInstance without a token",
        nobody.get_instance(get(SHOP)).await,
        (Code::Unauthenticated, "TOKEN_MISSING", "token"),
    );
    let mut forged = InstancesClient::new(w.connect_with(Some("x.y.z")).await?);
    t.add(
        "GetInstance with a token that is none",
        forged.get_instance(get(SHOP)).await,
        (Code::Unauthenticated, "TOKEN_MALFORMED", "token"),
    );
    let other = w.token("admin@example.com", "somebody-else", std::time::Duration::ZERO)?;
    let mut other = InstancesClient::new(w.connect_with(Some(&other)).await?);
    t.add(
        "GetInstance with a token for another audience",
        other.get_instance(get(SHOP)).await,
        (Code::Unauthenticated, "TOKEN_AUDIENCE", "audience"),
    );
    let mut mallory = InstancesClient::new(w.connect(Some("mallory@example.com")).await?);
    t.add(
        "GetInstance as a stranger",
        mallory.get_instance(get(SHOP)).await,
        (Code::NotFound, "NOT_FOUND", "shop"),
    );
    t.add(
        "CreateInstance as a stranger",
        mallory.create_instance(create("x")).await,
        (Code::PermissionDenied, "PERMISSION_DENIED", "role"),
    );
    Ok(())
}
