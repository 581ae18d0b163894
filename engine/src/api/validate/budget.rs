//! Budgets.
use crate::api::status::invalid;
use syp_proto::v1;
use tonic::Status;

/// A budget in the engine's currency.
///
/// # Errors
/// `INVALID_ARGUMENT`.
pub fn check(b: Option<&v1::Budget>, currency: &str) -> Result<(), Status> {
    let Some(b) = b else { return Ok(()) };
    let limit = b.limit.clone().unwrap_or_default();
    if limit.currency_code != currency {
        return Err(invalid("spec.budget", &format!("in {currency}, as this engine counts")));
    }
    if crate::cost::decimal(&limit) <= rust_decimal::Decimal::ZERO {
        return Err(invalid("spec.budget", "more than nothing"));
    }
    if b.period() == v1::budget::Period::Unspecified {
        return Err(invalid("spec.budget", "a period: day, week, month or lifetime"));
    }
    if b.thresholds.is_empty() || b.thresholds.len() > 8 {
        return Err(invalid("spec.budget", "1 to 8 lines with what is done at each"));
    }
    for t in &b.thresholds {
        use v1::budget::Action;
        if !(1..=1_000).contains(&t.percent) {
            return Err(invalid("spec.budget", "lines are at 1 to 1000 percent"));
        }
        if !matches!(t.action(), Action::Notify | Action::Drain | Action::Destroy) {
            return Err(invalid("spec.budget", "notify, drain or destroy"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::money;
    use rust_decimal::Decimal;
    use v1::budget::{Action, Period, Threshold};

    #[test]
    fn a_budget_has_a_limit_a_period_and_lines() {
        let line = |percent, action: Action| Threshold { percent, action: action as i32 };
        let good = v1::Budget {
            limit: Some(money(Decimal::ONE, "EUR")),
            period: Period::Day as i32,
            thresholds: vec![line(100, Action::Drain)],
            etag: String::new(),
        };
        assert!(check(Some(&good), "EUR").is_ok() && check(None, "EUR").is_ok());
        assert!(check(Some(&good), "USD").is_err());
        for bad in [
            v1::Budget::default(),
            v1::Budget { limit: Some(money(Decimal::ZERO, "EUR")), ..good.clone() },
            v1::Budget { period: 0, ..good.clone() },
            v1::Budget { thresholds: vec![], ..good.clone() },
            v1::Budget { thresholds: vec![line(0, Action::Drain)], ..good.clone() },
            v1::Budget { thresholds: vec![line(100, Action::Suspend)], ..good },
        ] {
            assert!(check(Some(&bad), "EUR").is_err(), "{bad:?}");
        }
    }
}
