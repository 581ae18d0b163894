//! `syp.v1.Providers`: the targets of this engine, and what lies there without an instance.
use super::{
    Api,
    status::{invalid, of_failure},
    validate,
};
use crate::{error::Error, id::InstanceId, step::Target, view};
use std::{collections::BTreeSet, sync::Arc};
use syp_proto::{
    google::longrunning::Operation,
    journal::Found,
    v1::{self, providers_server::Providers},
};
use tonic::{Request, Response, Status, async_trait};

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
        let mut spec = r.for_spec.unwrap_or_default();
        target.name().clone_into(&mut spec.target);
        let wanted = spec.resources.clone().unwrap_or_default();
        if !wanted.cpu.is_empty() && validate::cpu_millis(&wanted.cpu).is_none() {
            return Err(invalid("for_spec.resources.cpu", "cores, such as 0.5 or 500m"));
        }
        if !wanted.memory.is_empty() && validate::memory_bytes(&wanted.memory).is_none() {
            return Err(invalid("for_spec.resources.memory", "bytes, such as 256Mi"));
        }
        let mut said = target.examine(&spec).await;
        said.judge("issuer", self.somebody_gets_in(&spec), "those who are let in can have a token");
        Ok(Response::new(said.to_api()))
    }

    /// What carries our labels but belongs to no live instance. Reported; removed only when asked.
    async fn sweep_orphans(
        &self,
        request: Request<v1::SweepOrphansRequest>,
    ) -> Result<Response<Operation>, Status> {
        let r = request.into_inner();
        let store = self.engine.store().store_id().clone();
        let mut report = v1::SweepReport::default();
        for t in self.swept(&r.provider).await? {
            match t.list(&store, None).await {
                Err(f) => report.unreachable.push(format!("{}: {}", t.name(), f.message)),
                Ok(found) => {
                    for f in found.into_iter().filter(|f| self.is_orphan(f)) {
                        report.orphans.push(orphan(&f));
                        if r.delete && !r.validate_only {
                            match t.remove(&store, &f).await {
                                Ok(()) => report.deleted_count += 1,
                                // the others are not the worse for it
                                Err(why) => {
                                    report.left.push(format!("{}: {}; {}", f.key, why.message, why.hint))
                                }
                            }
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
    /// Where a sweep looks: at one target, at all of a kind (`aws`), or wherever an instance of this store is or has been.
    async fn swept(&self, provider: &str) -> Result<Vec<Arc<dyn Target>>, Status> {
        let named = match self.engine.target(provider) {
            Ok(one) => return Ok(vec![one]),
            Err(f) => of_failure(&f),
        };
        // whoever is named comes to be known; what can't be had any more, such as a context that is gone, has nothing to be asked
        let gone = self.engine.store().load_destroyed(10_000).await.map_err(Error::from)?;
        let gone = gone.into_iter().filter_map(|l| l.instance.ok());
        let targets: BTreeSet<_> = gone.filter_map(|i| i.spec.map(|s| s.target)).collect();
        targets.iter().for_each(|name| drop(self.engine.target(name)));
        let of_kind = |t: &Arc<dyn Target>| t.name().split(':').next() == Some(provider);
        let all: Vec<_> = self.engine.targets().filter(|t| provider.is_empty() || of_kind(t)).collect();
        // nothing found at a place that does not exist would sound like good news
        if all.is_empty() { Err(named) } else { Ok(all) }
    }

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
