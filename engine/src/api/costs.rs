//! `syp.v1.Costs`: what an instance costs, and what a spec would.
mod history;
mod prices;
mod tariff;
use super::{
    Api,
    authz::Authz,
    create::can_be_kept,
    page,
    requests::caller,
    status::{invalid, of_failure, refuse},
    validate, watch,
};
use crate::{
    clock::{Millis, timestamp},
    cost,
    id::InstanceId,
    tariffs, view,
};
use rust_decimal::Decimal;
use std::time::Duration;
use syp_auth::policy::Role;
use syp_proto::{
    journal::{Edited, Instance},
    v1::{self, costs_server::Costs},
};
use tonic::{Code, Request, Response, Status, async_trait};

/// So long who asks for figures waits for the provider's bill, when that is due.
const BILL: Duration = Duration::from_secs(5);

impl Api {
    /// The figures of an instance, with what it has drawn and what was billed.
    async fn cost_of(
        &self,
        i: &Instance,
        now: Millis,
        patience: Duration,
    ) -> Result<v1::CostSummary, Status> {
        let mut out = cost::summary(i, now);
        self.engine.put_bill(i, &mut out, patience).await?;
        if let Some(id) = InstanceId::parse(&i.uid) {
            out.energy = self.engine.energy(id).await?;
        }
        Ok(out)
    }
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
            self.engine.with_prices(&target).await;
            match target.preflight(&owner, &spec, None).await {
                Ok(p) => {
                    let pricing = cost::Pricing::of_facts(&p.facts);
                    let known = |d: Decimal| {
                        Some(cost::money(d, self.currency_of(&*target))).filter(|_| pricing.is_priced())
                    };
                    out.offers.push(v1::Offer {
                        target: name,
                        hourly: known(p.hourly),
                        monthly_always_on: known(p.hourly * Decimal::from(730)),
                        lines: p.lines,
                        price_as_of: timestamp(self.engine.clock().now()),
                        price_source: pricing.words(),
                        ..Default::default()
                    });
                }
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
        Ok(Response::new(self.cost_of(&i, self.engine.clock().now(), BILL).await?))
    }

    async fn query_costs(
        &self,
        request: Request<v1::QueryCostsRequest>,
    ) -> Result<Response<v1::QueryCostsResponse>, Status> {
        let a = Authz::of(&request)?;
        let r = request.into_inner();
        self.spent_by(&a, r).await.map(Response::new)
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
                    cost: Some(api.cost_of(&i, now, Duration::ZERO).await?),
                    budget_percent: history::budget_percent(&i, now),
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
        // the API has a place for it, for targets with more than one size of machine
        Err(refuse(
            Code::Unimplemented,
            "NOT_SUPPORTED",
            "the list of offerings is not part of this version",
            "'sypctl up --plan' shows what it would cost",
        ))
    }

    async fn update_budget(
        &self,
        request: Request<v1::UpdateBudgetRequest>,
    ) -> Result<Response<v1::Budget>, Status> {
        let a = Authz::of(&request)?;
        let r = request.into_inner();
        let cell = self.live(&a, &r.instance, Role::Operator).await?;
        validate::budget(r.budget.as_ref(), self.currency_in(&cell.get()))?;
        can_be_kept(r.budget.as_ref(), &cost::Pricing::of(&cell.get()))?;
        let who = caller(&a, &r.request_id, &r)?;
        let etag = r.budget.as_ref().map(|b| b.etag.clone()).unwrap_or_default();
        let budget = r.budget.map(|b| v1::Budget { etag: String::new(), ..b });
        if !r.validate_only && self.engine.answered(&who).await?.is_none() {
            let e = Edited {
                request_id: r.request_id,
                budget: budget.clone(),
                set_budget: true,
                ..Default::default()
            };
            self.engine.edit(&cell, e, &etag, &who).await?;
        }
        Ok(Response::new(v1::Budget { etag: crate::ops::etag(&cell.get()), ..budget.unwrap_or_default() }))
    }

    async fn list_tariffs(
        &self,
        request: Request<v1::ListTariffsRequest>,
    ) -> Result<Response<v1::ListTariffsResponse>, Status> {
        Authz::of(&request)?.require(Role::Viewer)?;
        let r = request.into_inner();
        let mut all = tariffs::all(&**self.engine.store()).await?;
        if !all.iter().any(tariffs::is_energy) {
            all.extend(self.engine.targets().find_map(|t| t.tariff()));
        }
        all.reverse();
        let key = |t: &v1::Tariff| {
            let at = t.from_time.as_ref().map_or(0, crate::clock::millis);
            format!("{:0>20}", i64::MAX - at)
        };
        let (tariffs, next_page_token) = page::cut(all, r.page_size, &r.page_token, "tariffs", key)?;
        Ok(Response::new(v1::ListTariffsResponse { tariffs, next_page_token }))
    }

    async fn set_tariff(
        &self,
        request: Request<v1::SetTariffRequest>,
    ) -> Result<Response<v1::Tariff>, Status> {
        let a = Authz::of(&request)?;
        a.require(Role::Admin)?;
        let r = request.into_inner();
        let who = caller(&a, &r.request_id, &r)?;
        let asked = r.tariff.ok_or_else(|| invalid("tariff", "required"))?;
        let (new, held) = self.new_tariff(asked).await?;
        if r.validate_only {
            return Ok(Response::new(new));
        }
        if self.engine.answered(&who).await?.is_some() {
            return Ok(Response::new(held));
        }
        Ok(Response::new(self.engine.set_tariff(new, &who).await?))
    }

    async fn get_prices(
        &self,
        request: Request<v1::GetPricesRequest>,
    ) -> Result<Response<v1::PriceList>, Status> {
        let a = Authz::of(&request)?;
        self.prices(&a, request.get_ref()).map(Response::new)
    }

    async fn refresh_prices(
        &self,
        request: Request<v1::RefreshPricesRequest>,
    ) -> Result<Response<v1::RefreshPricesResponse>, Status> {
        let a = Authz::of(&request)?;
        self.refresh(&a, request.into_inner()).await.map(Response::new)
    }
}
