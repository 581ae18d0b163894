//! Where an instance lives: the account's default network, or the subnets that were asked for. Decided once and kept.
//!
//! Five networks a region is the default quota, so an instance gets no network of its own: two security groups part it from others.
use super::query::{EC2, Query};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use syp_engine::failure::{Class, failure};
use syp_proto::journal::Failure;

/// A network and two or more of its subnets, each in another zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Its id.
    pub vpc: String,
    /// Their ids.
    pub subnets: Vec<String>,
}

#[derive(Deserialize)]
struct List<T> {
    #[serde(rename = "vpcSet", alias = "subnetSet")]
    set: Option<Set<T>>,
}

#[derive(Deserialize)]
struct Set<T> {
    #[serde(rename = "item", default = "Vec::new")]
    items: Vec<T>,
}

#[derive(Deserialize)]
struct Vpc {
    #[serde(rename = "vpcId")]
    id: String,
}

/// A subnet as AWS says it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Subnet {
    #[serde(rename = "subnetId")]
    id: String,
    #[serde(rename = "vpcId")]
    vpc: String,
    #[serde(rename = "availabilityZone")]
    zone: String,
    /// Its instances get public addresses by default: it has a way to the internet of its own.
    #[serde(rename = "mapPublicIpOnLaunch", default)]
    public: bool,
    #[serde(rename = "defaultForAz", default)]
    by_default: bool,
}

fn refuse(what: impl Into<String>, next: impl Into<String>) -> Failure {
    failure(Class::Terminal, "NETWORK_UNSUITABLE", what, next)
}

async fn all<T: serde::de::DeserializeOwned>(
    q: &Query,
    action: &str,
    parameters: &[(&str, &str)],
) -> Result<Vec<T>, Failure> {
    let list: List<T> = q.read(EC2, action, parameters).await?;
    Ok(list.set.map(|s| s.items).unwrap_or_default())
}

/// Finds it.
///
/// # Errors
/// `NETWORK_UNSUITABLE`, or AWS'.
pub async fn find(q: &Query, region: &str, asked: &[String]) -> Result<Place, Failure> {
    if asked.is_empty() {
        let vpcs: Vec<Vpc> =
            all(q, "DescribeVpcs", &[("Filter.1.Name", "is-default"), ("Filter.1.Value.1", "true")]).await?;
        let Some(vpc) = vpcs.first() else {
            return Err(refuse(
                format!("the account has no default network in {region}"),
                "'aws ec2 create-default-vpc' makes one; or name two subnets with --subnet",
            ));
        };
        let of = [("Filter.1.Name", "vpc-id"), ("Filter.1.Value.1", vpc.id.as_str())];
        return one_a_zone(&all(q, "DescribeSubnets", &of).await?, region);
    }
    let names: Vec<String> = (1..=asked.len()).map(|n| format!("SubnetId.{n}")).collect();
    let of: Vec<(&str, &str)> =
        names.iter().map(String::as_str).zip(asked.iter().map(String::as_str)).collect();
    these(&all(q, "DescribeSubnets", &of).await?)
}

/// Of a default network: in each zone the default subnet, else the first that has a way out. Pure.
fn one_a_zone(all: &[Subnet], region: &str) -> Result<Place, Failure> {
    let mut zones: BTreeMap<&str, &Subnet> = BTreeMap::new();
    let mut sorted: Vec<&Subnet> = all.iter().filter(|s| s.public || s.by_default).collect();
    sorted.sort_by_key(|s| (!s.by_default, s.id.as_str()));
    for s in sorted {
        zones.entry(&s.zone).or_insert(s);
    }
    let Some(first) = zones.values().next().filter(|_| zones.len() > 1) else {
        return Err(refuse(
            format!(
                "the default network of {region} has public subnets in {} zones; a load balancer needs two",
                zones.len()
            ),
            "'aws ec2 create-default-subnet' makes one in a zone; or name two subnets with --subnet",
        ));
    };
    // two are enough, and each has an address that is paid for
    let subnets = zones.values().take(2).map(|s| s.id.clone()).collect();
    Ok(Place { vpc: first.vpc.clone(), subnets })
}

/// Those that were asked for. Pure.
fn these(all: &[Subnet]) -> Result<Place, Failure> {
    let vpcs: BTreeSet<&str> = all.iter().map(|s| s.vpc.as_str()).collect();
    let zones: BTreeSet<&str> = all.iter().map(|s| s.zone.as_str()).collect();
    if vpcs.len() != 1 {
        return Err(refuse("the subnets are of more than one network", "name subnets of one network"));
    }
    if zones.len() < 2 || zones.len() < all.len() {
        return Err(refuse(
            "a load balancer needs subnets in two zones or more, one in each",
            "name two subnets that are in different zones",
        ));
    }
    if let Some(s) = all.iter().find(|s| !s.public) {
        return Err(refuse(
            format!("{} is a private subnet: a load balancer that callers reach needs public ones", s.id),
            "name subnets with a route to an internet gateway that give out public addresses",
        ));
    }
    let vpc = all.first().map(|s| s.vpc.clone()).unwrap_or_default();
    Ok(Place { vpc, subnets: all.iter().map(|s| s.id.clone()).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(id: &str, zone: &str, public: bool, by_default: bool) -> Subnet {
        Subnet { id: id.into(), vpc: "vpc-1".into(), zone: zone.into(), public, by_default }
    }

    #[test]
    fn of_a_default_network_two_zones_are_taken_and_always_the_same() {
        let all = [
            subnet("subnet-c", "c", true, true),
            subnet("subnet-b2", "b", true, false),
            subnet("subnet-b", "b", true, true),
            subnet("subnet-a", "a", false, false),
        ];
        let place = one_a_zone(&all, "eu-west-1").unwrap();
        assert_eq!(place, Place { vpc: "vpc-1".into(), subnets: vec!["subnet-b".into(), "subnet-c".into()] });
        let f = one_a_zone(&all[1..], "eu-west-1").unwrap_err();
        assert!(f.reason == "NETWORK_UNSUITABLE" && f.message.contains("in 1 zones"), "{f:?}");
    }

    #[test]
    fn subnets_that_were_named_are_of_one_network_public_and_in_two_zones() {
        let good = [subnet("subnet-1", "a", true, false), subnet("subnet-2", "b", true, false)];
        assert_eq!(these(&good).unwrap().subnets, ["subnet-1", "subnet-2"]);
        let other = Subnet { vpc: "vpc-2".into(), ..good[1].clone() };
        for bad in [
            vec![good[0].clone()],
            vec![good[0].clone(), subnet("subnet-3", "a", true, false)],
            vec![good[0].clone(), subnet("subnet-3", "b", false, false)],
            vec![good[0].clone(), other],
            vec![],
        ] {
            assert_eq!(these(&bad).unwrap_err().reason, "NETWORK_UNSUITABLE");
        }
    }

    #[test]
    fn what_ec2_answers_is_read() {
        let text = "<DescribeSubnetsResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>r</requestId><subnetSet>\
            <item><subnetId>subnet-1</subnetId><vpcId>vpc-1</vpcId><availabilityZone>a</availabilityZone>\
            <mapPublicIpOnLaunch>true</mapPublicIpOnLaunch><defaultForAz>true</defaultForAz><tagSet/></item>\
            <item><subnetId>subnet-2</subnetId><vpcId>vpc-1</vpcId><availabilityZone>b</availabilityZone>\
            <mapPublicIpOnLaunch>true</mapPublicIpOnLaunch></item></subnetSet></DescribeSubnetsResponse>";
        let list: List<Subnet> = quick_xml::de::from_str(text).unwrap();
        assert_eq!(these(&list.set.unwrap().items).unwrap().subnets, ["subnet-1", "subnet-2"]);
        let none: List<Vpc> = quick_xml::de::from_str("<R><vpcSet/></R>").unwrap();
        assert!(none.set.unwrap().items.is_empty());
    }
}
