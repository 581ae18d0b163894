//! The regions of an AWS account as targets: each becomes one when somebody names it.
use parking_lot::RwLock;
use secrecy::SecretSlice;
use std::{collections::BTreeMap, sync::Arc};
use syp_engine::{
    clock::Clock,
    failure::{Class, failure},
    step::Target,
    targets::Resolve,
};
use syp_proto::{journal::Failure, v1::PriceList};
use syp_steps::{
    aws::{AwsTarget, Options},
    prices::aws::Catalogue,
};

/// What every region's target is made of.
pub struct Regions {
    key: SecretSlice<u8>,
    gate_image: Option<String>,
    /// Of those that were ever read, the newest, by target.
    prices: RwLock<BTreeMap<String, PriceList>>,
}

// === impl Regions ===

impl Regions {
    /// As the engine's environment says: `SYP_GATE_IMAGE`, and what the SDK reads (`AWS_PROFILE`, ...).
    pub fn new(key: SecretSlice<u8>) -> Self {
        let gate_image = std::env::var("SYP_GATE_IMAGE").ok().filter(|i| !i.is_empty());
        Self { key, gate_image, prices: RwLock::default() }
    }
}

/// `eu-west-1`, `us-gov-east-1`: a name that AWS would not have is refused before it is asked under it. Pure.
fn is_region(name: &str) -> bool {
    let parts: Vec<&str> = name.split('-').collect();
    let word = |p: &&str| !p.is_empty() && p.chars().all(|c| c.is_ascii_lowercase());
    let number = |p: &&str| !p.is_empty() && p.chars().all(|c| c.is_ascii_digit());
    (3..=4).contains(&parts.len())
        && parts.split_last().is_some_and(|(last, rest)| number(last) && rest.iter().all(word))
}

impl Resolve for Regions {
    fn resolve(&self, name: &str) -> Result<Option<Arc<dyn Target>>, Failure> {
        let region = match name.split_once(':') {
            Some(("aws", region)) => region,
            None if name == "aws" => "",
            _ => return Ok(None),
        };
        if !is_region(region) {
            return Err(failure(
                Class::Terminal,
                "TARGET_UNKNOWN",
                if region.is_empty() {
                    "'aws' names no region".to_owned()
                } else {
                    format!("'{region}' is no region of AWS")
                },
                "say which, such as aws:eu-west-1",
            ));
        }
        let prices = Catalogue::built_in().map_err(|e| {
            failure(Class::Terminal, "INTERNAL", format!("prices: {e}"), "this is a bug: please report it")
        })?;
        let target = AwsTarget::new(Options {
            region: region.to_owned(),
            gate_image: self.gate_image.clone(),
            key: self.key.clone(),
            prices,
            clock: Clock::System,
        });
        if let Some(list) = self.prices.read().get(name)
            && let Err(f) = target.set_prices(list)
        {
            // it goes without, or by what comes with the program, until they are read anew
            tracing::warn!(reason = f.reason, "{}", f.message);
        }
        Ok(Some(Arc::new(target)))
    }

    fn set_prices(&self, new: &PriceList) {
        self.prices.write().insert(new.target.clone(), new.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_named_and_what_is_none_is_refused_with_an_example() {
        let r = Regions::new(vec![0; 32].into());
        let name = |n: &str| r.resolve(n).map(|t| t.map(|t| t.name().to_owned()));
        for good in ["aws:eu-west-1", "aws:us-gov-east-1"] {
            assert_eq!(name(good).unwrap().as_deref(), Some(good));
        }
        for none in ["docker", "k8s:aws", "aws-eu"] {
            assert_eq!(name(none).unwrap(), None, "{none}");
        }
        for bad in ["aws", "aws:", "aws:nowhere", "aws:eu-west-1/x", "aws:EU-WEST-1", "aws:eu-west-"] {
            let f = r.resolve(bad).err().unwrap();
            assert!(f.reason == "TARGET_UNKNOWN" && f.hint.contains("aws:eu-west-1"), "{bad}: {f:?}");
        }
    }
}
