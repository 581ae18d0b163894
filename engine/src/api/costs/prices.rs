//! List prices of providers: what counts, and what the provider says today.
use crate::api::{
    Api,
    authz::Authz,
    requests::caller,
    status::{invalid, of_failure, refuse},
};
use std::sync::Arc;
use syp_auth::policy::Role;
use syp_proto::v1::{GetPricesRequest, PriceList, RefreshPricesRequest, RefreshPricesResponse};
use tonic::{Code, Status};

impl Api {
    fn listed(&self, target: &str) -> Result<(Arc<dyn crate::step::Target>, PriceList), Status> {
        if target.is_empty() {
            return Err(invalid("target", "required, such as aws:eu-west-1"));
        }
        let t = self.engine.target(target).map_err(|f| of_failure(&f))?;
        let held = t.prices().ok_or_else(|| {
            refuse(
                Code::FailedPrecondition,
                "NOT_SUPPORTED",
                format!("'{}' has no list prices", t.name()),
                "'sypctl tariff show' has what energy and the nodes of clusters cost",
            )
        })?;
        Ok((t, held))
    }

    pub(in crate::api) fn prices(&self, a: &Authz, r: &GetPricesRequest) -> Result<PriceList, Status> {
        a.require(Role::Viewer)?;
        self.listed(&r.target).map(|(_, held)| held)
    }

    pub(in crate::api) async fn refresh(
        &self,
        a: &Authz,
        r: RefreshPricesRequest,
    ) -> Result<RefreshPricesResponse, Status> {
        a.require(Role::Admin)?;
        let who = caller(a, &r.request_id, &r)?;
        let (target, former) = self.listed(&r.target)?;
        if !r.validate_only && self.engine.answered(&who).await?.is_some() {
            return Ok(RefreshPricesResponse { prices: Some(former.clone()), former: Some(former) });
        }
        let new = if r.validate_only {
            target.read_prices().await.map_err(|f| of_failure(&f))?
        } else {
            self.engine.refresh_prices(target, who).await?
        };
        Ok(RefreshPricesResponse { prices: Some(new), former: Some(former) })
    }
}
