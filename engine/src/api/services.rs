//! The smaller services: costs, metrics, access, providers, server, audit. Secrets answer that this version has none.
use super::{
    Api, VERSION,
    authz::{self, Authz},
    identity::API_AUDIENCE,
    instances::caller,
    page,
    status::{invalid, of_failure, refuse},
    validate, watch,
};
use crate::{
    clock::{duration, timestamp},
    cost, door,
    error::Error,
    id::InstanceId,
    store::Commit,
    view,
};
use rust_decimal::Decimal;
use secrecy::ExposeSecret;
use std::time::Duration;
use syp_auth::{door::GateMetrics, policy::Role};
use syp_proto::{
    google::longrunning::Operation,
    journal::{Edited, Found},
    v1::{
        self, Plane, access_server::Access, audit_server::Audit, costs_server::Costs,
        metrics_server::Metrics, providers_server::Providers, secrets_server::Secrets, server_server::Server,
    },
};
use tonic::{Code, Request, Response, Status, async_trait};

fn later(what: &str) -> Status {
    refuse(
        Code::Unimplemented,
        "NOT_SUPPORTED",
        format!("{what} is not part of this version"),
        "see the CHANGELOG for what is",
    )
}

#[async_trait]
impl Costs for Api {
    async fn estimate_cost(
        &self,
        request: Request<v1::EstimateCostRequest>,
    ) -> Result<Response<v1::EstimateCostResponse>, Status> {
        let r = request.into_inner();
        let spec = r.spec.ok_or_else(|| invalid("spec", "required"))?;
        let names = if r.targets.is_empty() { vec![spec.target.clone()] } else { r.targets };
        let mut out = v1::EstimateCostResponse::default();
        for name in names {
            let target = self.engine.target(&name).map_err(|f| of_failure(&f))?;
            let owner = crate::step::Owner {
                store: self.engine.store().store_id().clone(),
                uid: InstanceId::random(),
                name: "estimate".into(),
                revision: String::new(),
            };
            match target.preflight(&owner, &spec).await {
                Ok(p) => out.offers.push(v1::Offer {
                    target: name,
                    hourly: Some(cost::money(p.hourly, &self.currency)),
                    monthly_always_on: Some(cost::money(p.hourly * Decimal::from(730), &self.currency)),
                    lines: p.lines,
                    price_as_of: timestamp(self.engine.clock().now()),
                    price_source: "power model x tariff".into(),
                    ..Default::default()
                }),
                Err(f) if f.reason == "PROVIDER_UNREACHABLE" => out.unreachable.push(name),
                Err(f) => return Err(of_failure(&f)),
            }
        }
        Ok(Response::new(out))
    }

    async fn get_cost(
        &self,
        request: Request<v1::GetCostRequest>,
    ) -> Result<Response<v1::CostSummary>, Status> {
        let a = Authz::of(&request)?;
        let i = self.any(&a, &request.into_inner().name, Role::Viewer).await?;
        Ok(Response::new(cost::summary(&i, self.engine.clock().now())))
    }

    async fn query_costs(
        &self,
        _: Request<v1::QueryCostsRequest>,
    ) -> Result<Response<v1::QueryCostsResponse>, Status> {
        Err(later("the cost history"))
    }

    type WatchCostStream = watch::Stream<v1::WatchCostResponse>;

    async fn watch_cost(
        &self,
        request: Request<v1::WatchCostRequest>,
    ) -> Result<Response<Self::WatchCostStream>, Status> {
        let a = Authz::of(&request)?;
        let r = request.into_inner();
        self.any(&a, &r.name, Role::Viewer).await?;
        let every = r.interval.as_ref().map_or(1_000, crate::clock::duration_millis).clamp(200, 3_600_000);
        let api = self.clone();
        Ok(Response::new(Box::pin(async_stream::try_stream! {
            loop {
                let i = api.any(&a, &r.name, Role::Viewer).await?;
                let now = api.engine.clock().now();
                yield v1::WatchCostResponse {
                    instance: view::full_name(&i),
                    cost: Some(cost::summary(&i, now)),
                    budget_percent: 0,
                    time: timestamp(now),
                };
                if i.destroy_ms != 0 {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(u64::try_from(every).unwrap_or(1000))).await;
            }
        })))
    }

    async fn list_offerings(
        &self,
        _: Request<v1::ListOfferingsRequest>,
    ) -> Result<Response<v1::ListOfferingsResponse>, Status> {
        Err(later("the list of offerings"))
    }

    async fn update_budget(
        &self,
        _: Request<v1::UpdateBudgetRequest>,
    ) -> Result<Response<v1::Budget>, Status> {
        Err(later("a budget"))
    }
}

impl Api {
    async fn point(&self, a: &Authz, name: &str) -> Result<v1::MetricsPoint, Status> {
        let cell = self.live(a, name, Role::Viewer).await?;
        let i = cell.get();
        let target = self
            .engine
            .target(i.spec.as_ref().map_or("", |s| s.target.as_str()))
            .map_err(|f| of_failure(&f))?;
        let s = target.stats(&self.engine.context(&cell)).await.map_err(|f| of_failure(&f))?;
        let now = self.engine.clock().now();
        let gate = s.gate.unwrap_or_default();
        let up_ms = (now - i.serving_ms).max(1);
        let seconds = Decimal::from(up_ms) / Decimal::from(1000);
        let ready = s.status.map_or(0, |s| s.upstreams.iter().filter(|u| u.ready).count());
        Ok(v1::MetricsPoint {
            time: timestamp(now),
            window: Some(duration(up_ms)),
            rps: rate(total(&gate), seconds),
            latency: Some(latency(&gate)),
            status_class: gate
                .requests_by_class
                .iter()
                .enumerate()
                .map(|(n, c)| (format!("{n}xx"), i64::try_from(*c).unwrap_or(i64::MAX)))
                .filter(|(_, c)| *c > 0)
                .collect(),
            auth_denied: i64::try_from(gate.denied_401 + gate.denied_403).unwrap_or(i64::MAX),
            cpu_cores: s.cpu_seconds / (up_ms as f64 / 1000.0),
            memory_bytes: i64::try_from(s.memory_bytes).unwrap_or(i64::MAX),
            replicas_ready: i32::try_from(ready).unwrap_or(0),
            cold_starts: 0,
            bytes_in: i64::try_from(gate.bytes_in).unwrap_or(i64::MAX),
            bytes_out: i64::try_from(gate.bytes_out).unwrap_or(i64::MAX),
            open_streams: i32::try_from(gate.in_flight).unwrap_or(i32::MAX),
        })
    }
}

fn total(g: &GateMetrics) -> u64 {
    g.requests_by_class.iter().sum()
}

fn rate(count: u64, seconds: Decimal) -> f64 {
    rust_decimal::prelude::ToPrimitive::to_f64(&(Decimal::from(count) / seconds)).unwrap_or(0.0)
}

fn latency(g: &GateMetrics) -> v1::metrics_point::Latency {
    let at = |p: f64| {
        let us = g.latency.percentile(p)?;
        Some(prost_types::Duration {
            seconds: i64::try_from(us / 1_000_000).unwrap_or(0),
            nanos: i32::try_from(us % 1_000_000).unwrap_or(0) * 1000,
        })
    };
    v1::metrics_point::Latency {
        p50: at(50.0),
        p90: at(90.0),
        p99: at(99.0),
        max: at(100.0),
        gateway_overhead_p99: None,
    }
}

#[async_trait]
impl Metrics for Api {
    async fn get_metrics(
        &self,
        request: Request<v1::GetMetricsRequest>,
    ) -> Result<Response<v1::MetricsPoint>, Status> {
        let a = Authz::of(&request)?;
        self.point(&a, &request.into_inner().name).await.map(Response::new)
    }

    async fn query_metrics(
        &self,
        _: Request<v1::QueryMetricsRequest>,
    ) -> Result<Response<v1::QueryMetricsResponse>, Status> {
        Err(later("the history of metrics"))
    }

    type WatchMetricsStream = watch::Stream<v1::MetricsPoint>;

    async fn watch_metrics(
        &self,
        request: Request<v1::GetMetricsRequest>,
    ) -> Result<Response<Self::WatchMetricsStream>, Status> {
        let a = Authz::of(&request)?;
        let r = request.into_inner();
        self.live(&a, &r.name, Role::Viewer).await?;
        let api = self.clone();
        Ok(Response::new(Box::pin(async_stream::try_stream! {
            loop {
                yield api.point(&a, &r.name).await?;
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
        })))
    }
}

#[async_trait]
impl Access for Api {
    async fn who_am_i(&self, request: Request<v1::WhoAmIRequest>) -> Result<Response<v1::Principal>, Status> {
        Ok(Response::new(Authz::of(&request)?.principal()))
    }

    async fn issue_local_token(
        &self,
        request: Request<v1::IssueLocalTokenRequest>,
    ) -> Result<Response<v1::IssueLocalTokenResponse>, Status> {
        let r = request.into_inner();
        let ttl = r.ttl.as_ref().map_or(3_600_000, crate::clock::duration_millis);
        if !(1_000..=86_400_000).contains(&ttl) {
            return Err(invalid("ttl", "1s to 24h"));
        }
        let audience = match r.audience.as_str() {
            "" | API_AUDIENCE => API_AUDIENCE.to_owned(),
            name => {
                let (project, short) = name
                    .strip_prefix("projects/")
                    .and_then(|n| n.split_once("/instances/"))
                    .unwrap_or(("default", name));
                let cell =
                    self.engine.by_name(project, short).ok_or_else(|| Error::NotFound(name.to_owned()))?;
                door::instance_audience(&cell.id.to_string())
            }
        };
        let (token, identity) = self
            .identities
            .issue_local(
                &audience,
                &r.email,
                &r.subject,
                &r.groups,
                Duration::from_millis(u64::try_from(ttl).unwrap_or(0)),
            )
            .map_err(|e| refuse(Code::FailedPrecondition, "LOCAL_ISSUER", e, "run 'sypctl doctor'"))?;
        let role = self.identities.role(&identity, true);
        let a = Authz::new(identity, role, true);
        Ok(Response::new(v1::IssueLocalTokenResponse {
            token: token.expose_secret().to_owned(),
            expire_time: timestamp(self.engine.clock().now() + ttl),
            principal: Some(a.principal()),
        }))
    }

    async fn get_access_policy(
        &self,
        request: Request<v1::GetAccessPolicyRequest>,
    ) -> Result<Response<v1::AccessPolicy>, Status> {
        let a = Authz::of(&request)?;
        let r = request.into_inner();
        if r.resource.is_empty() {
            a.require(Role::Viewer)?;
            return Ok(Response::new(self.identities.control_policy()));
        }
        let i = self.any(&a, &r.resource, Role::Viewer).await?;
        let spec = i.spec.clone().unwrap_or_default();
        let mut p =
            if r.plane() == Plane::Control { spec.operators } else { spec.access }.unwrap_or_default();
        p.etag = crate::ops::etag(&i);
        Ok(Response::new(p))
    }

    async fn set_access_policy(
        &self,
        request: Request<v1::SetAccessPolicyRequest>,
    ) -> Result<Response<v1::AccessPolicy>, Status> {
        let a = Authz::of(&request)?;
        let r = request.into_inner();
        let policy = r.policy.clone().ok_or_else(|| invalid("policy", "required"))?;
        validate::access("policy", &policy)?;
        if r.resource.is_empty() {
            return self.set_control_policy(&a, &r, policy).await;
        }
        let cell = self.live(&a, &r.resource, Role::Operator).await?;
        let control = r.plane() == Plane::Control;
        let held = cell.get().spec.clone().unwrap_or_default();
        let held = if control { held.operators } else { held.access };
        self.usable("policy", &policy, &held.unwrap_or_default())?;
        if control && !r.allow_self_lockout {
            let after = authz::decide(&door::policy(&policy), &a.identity).max(a.role);
            if after.is_none_or(|x| x < Role::Operator) {
                return Err(lockout());
            }
        }
        let expect = policy.etag.clone();
        let stored = Some(v1::AccessPolicy { rules: policy.rules, etag: String::new() });
        let mut e = Edited { request_id: r.request_id.clone(), ..Default::default() };
        if control {
            e.operators = stored;
        } else {
            e.access = stored;
        }
        if !r.validate_only {
            self.engine.edit(&cell, e, &expect, &caller(&a, &r.request_id, &r)?).await?;
        }
        let i = cell.get();
        let spec = i.spec.clone().unwrap_or_default();
        let mut p = if control { spec.operators } else { spec.access }.unwrap_or_default();
        p.etag = crate::ops::etag(&i);
        Ok(Response::new(p))
    }

    async fn test_access(
        &self,
        _: Request<v1::TestAccessRequest>,
    ) -> Result<Response<v1::TestAccessResponse>, Status> {
        Err(later("'access test'"))
    }

    async fn create_token(&self, _: Request<v1::CreateTokenRequest>) -> Result<Response<v1::Token>, Status> {
        Err(later("a machine token"))
    }

    async fn list_tokens(
        &self,
        _: Request<v1::ListTokensRequest>,
    ) -> Result<Response<v1::ListTokensResponse>, Status> {
        Err(later("a machine token"))
    }

    async fn revoke_token(&self, _: Request<v1::RevokeTokenRequest>) -> Result<Response<()>, Status> {
        Err(later("a machine token"))
    }
}

fn lockout() -> Status {
    refuse(
        Code::FailedPrecondition,
        "SELF_LOCKOUT",
        "after this change you could not change it back",
        "keep a rule that names you, or pass --force",
    )
}

impl Api {
    async fn set_control_policy(
        &self,
        a: &Authz,
        r: &v1::SetAccessPolicyRequest,
        policy: v1::AccessPolicy,
    ) -> Result<Response<v1::AccessPolicy>, Status> {
        a.require(Role::Admin)?;
        let current = self.identities.control_policy();
        if !policy.etag.is_empty() && policy.etag != current.etag {
            return Err(Error::EtagMismatch.into());
        }
        self.usable("policy", &policy, &current)?;
        if !r.allow_self_lockout && authz::decide(&door::policy(&policy), &a.identity) < Some(Role::Admin) {
            return Err(lockout());
        }
        if r.validate_only {
            return Ok(Response::new(policy));
        }
        let value = prost::Message::encode_to_vec(&v1::AccessPolicy {
            rules: policy.rules.clone(),
            etag: String::new(),
        });
        let commit =
            Commit { settings: vec![(super::identity::CONTROL_POLICY.into(), value)], ..Default::default() };
        self.engine.store().commit(commit).await.map_err(Error::from)?;
        self.identities.set_control_policy(policy);
        Ok(Response::new(self.identities.control_policy()))
    }
}

#[async_trait]
impl Providers for Api {
    async fn list_providers(
        &self,
        _: Request<v1::ListProvidersRequest>,
    ) -> Result<Response<v1::ListProvidersResponse>, Status> {
        let mut providers = Vec::new();
        for t in self.engine.targets() {
            let identity = t.check().await;
            providers.push(v1::Provider {
                name: format!("providers/{}", t.name()),
                kind: t.name().into(),
                reachable: identity.is_ok(),
                identity: identity.unwrap_or_else(|f| f.message),
                ..Default::default()
            });
        }
        Ok(Response::new(v1::ListProvidersResponse { providers, next_page_token: String::new() }))
    }

    async fn check_provider(
        &self,
        request: Request<v1::CheckProviderRequest>,
    ) -> Result<Response<v1::CheckProviderResponse>, Status> {
        let r = request.into_inner();
        let target = self.engine.target(&r.name).map_err(|f| of_failure(&f))?;
        let identity = target.check().await.map_err(|f| of_failure(&f))?;
        Ok(Response::new(v1::CheckProviderResponse { ok: true, identity, ..Default::default() }))
    }

    /// What carries our labels but belongs to no live instance. Reported; removed only when asked.
    async fn sweep_orphans(
        &self,
        request: Request<v1::SweepOrphansRequest>,
    ) -> Result<Response<Operation>, Status> {
        let r = request.into_inner();
        let store = self.engine.store().store_id().clone();
        let mut report = v1::SweepReport::default();
        for t in self.engine.targets() {
            if !r.provider.is_empty() && r.provider.trim_start_matches("providers/") != t.name() {
                continue;
            }
            match t.list(&store, None).await {
                Err(f) => report.unreachable.push(format!("{}: {}", t.name(), f.message)),
                Ok(found) => {
                    for f in found.into_iter().filter(|f| self.is_orphan(f)) {
                        report.orphans.push(orphan(&f));
                        if r.delete && !r.validate_only {
                            t.remove(&store, &f).await.map_err(|f| of_failure(&f))?;
                            report.deleted_count += 1;
                        }
                    }
                }
            }
        }
        let result = syp_proto::google::longrunning::operation::Result::Response(view::any(&report));
        Ok(Response::new(Operation {
            name: "operations/sweep".into(),
            done: true,
            result: Some(result),
            metadata: None,
        }))
    }
}

impl Api {
    /// `found.node` holds the instance's uid when a listing is of the whole store.
    fn is_orphan(&self, f: &Found) -> bool {
        let uid = f.node.split('/').next().unwrap_or_default();
        InstanceId::parse(uid).and_then(|id| self.engine.cell(id)).is_none()
    }
}

fn orphan(f: &Found) -> v1::Resource {
    v1::Resource {
        kind: f.kind.split('@').next().unwrap_or_default().into(),
        deterministic_id: f.key.clone(),
        provider_id: f.handle.clone(),
        step: f.node.clone(),
        ..Default::default()
    }
}

#[async_trait]
impl Server for Api {
    async fn get_server_info(
        &self,
        _: Request<v1::GetServerInfoRequest>,
    ) -> Result<Response<v1::ServerInfo>, Status> {
        let cells = self.engine.cells();
        let open = cells.iter().filter(|c| c.get().run.is_some()).count();
        let store = self.engine.store();
        Ok(Response::new(v1::ServerInfo {
            version: VERSION.into(),
            store_id: store.store_id().to_string(),
            store_path: self.about.store_path.clone(),
            boot_epoch: i64::try_from(store.boot_epoch()).unwrap_or(i64::MAX),
            start_time: timestamp(self.about.started_ms),
            issuers: self.identities.issuers(),
            local_issuer: self.identities.local_issuer().unwrap_or_default(),
            instances: i32::try_from(cells.len()).unwrap_or(i32::MAX),
            open_operations: i32::try_from(open).unwrap_or(i32::MAX),
            listen: self.about.listen.clone(),
            pid: i64::from(std::process::id()),
            targets: self.engine.targets().map(|t| t.name().to_owned()).collect(),
            api_audience: API_AUDIENCE.into(),
        }))
    }

    async fn shutdown_server(&self, _: Request<v1::ShutdownServerRequest>) -> Result<Response<()>, Status> {
        self.shutdown.cancel();
        Ok(Response::new(()))
    }

    async fn check_store(
        &self,
        _: Request<v1::CheckStoreRequest>,
    ) -> Result<Response<v1::CheckStoreResponse>, Status> {
        let (records, problems) = self.engine.store().fsck().await.map_err(Error::from)?;
        Ok(Response::new(v1::CheckStoreResponse {
            instances: i64::try_from(self.engine.cells().len()).unwrap_or(i64::MAX),
            records: i64::try_from(records).unwrap_or(i64::MAX),
            problems,
        }))
    }
}

#[async_trait]
impl Audit for Api {
    async fn list_audit_events(
        &self,
        request: Request<v1::ListAuditEventsRequest>,
    ) -> Result<Response<v1::ListAuditEventsResponse>, Status> {
        let r = request.into_inner();
        let rows = self.engine.store().audit(10_000).await.map_err(Error::from)?;
        let all: Vec<_> = rows
            .into_iter()
            .enumerate()
            .map(|(n, x)| v1::AuditEvent {
                name: format!("auditEvents/{:020}-{n:05}", i64::MAX - x.at_ms),
                time: timestamp(x.at_ms),
                actor: Some(v1::Principal {
                    // before there is a token there is a user of this host, or an address
                    subject: if x.subject.is_empty() { x.peer } else { x.subject },
                    issuer: x.issuer,
                    email: x.email,
                    ..Default::default()
                }),
                method: x.method,
                targets: if x.target.is_empty() { vec![] } else { vec![x.target] },
                outcome: x.outcome,
                message: x.reason,
                ..Default::default()
            })
            .collect();
        let (audit_events, next_page_token) =
            page::cut(all, r.page_size, &r.page_token, &r.filter, |e| e.name.clone())?;
        Ok(Response::new(v1::ListAuditEventsResponse { audit_events, next_page_token }))
    }

    type WatchAuditEventsStream = watch::Stream<v1::AuditEvent>;

    async fn watch_audit_events(
        &self,
        _: Request<v1::WatchAuditEventsRequest>,
    ) -> Result<Response<Self::WatchAuditEventsStream>, Status> {
        Err(later("watching the audit trail"))
    }
}

#[async_trait]
impl Secrets for Api {
    async fn create_secret(
        &self,
        _: Request<v1::CreateSecretRequest>,
    ) -> Result<Response<v1::Secret>, Status> {
        Err(later("a secret store"))
    }

    async fn add_secret_version(
        &self,
        _: Request<v1::AddSecretVersionRequest>,
    ) -> Result<Response<v1::SecretVersion>, Status> {
        Err(later("a secret store"))
    }

    async fn get_secret(&self, _: Request<v1::GetSecretRequest>) -> Result<Response<v1::Secret>, Status> {
        Err(later("a secret store"))
    }

    async fn list_secrets(
        &self,
        _: Request<v1::ListSecretsRequest>,
    ) -> Result<Response<v1::ListSecretsResponse>, Status> {
        Err(later("a secret store"))
    }

    async fn delete_secret(&self, _: Request<v1::DeleteSecretRequest>) -> Result<Response<()>, Status> {
        Err(later("a secret store"))
    }
}
