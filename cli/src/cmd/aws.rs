//! Flags of what runs on AWS.
use syp_proto::v1;

/// Where in an account, and under which certificate.
#[derive(Debug, Default, clap::Args)]
pub struct Aws {
    /// On AWS: ARN of the domain's certificate in ACM [default: one of the region that is for it]
    #[arg(long, value_name = "ARN", requires = "domain")]
    certificate: Option<String>,
    /// On AWS: id of the hosted zone in which the domain gets its record [default: you make the record]
    #[arg(long, value_name = "ID", requires = "domain")]
    zone: Option<String>,
    /// On AWS: a public subnet, two or more in different zones [default: those of the default VPC]
    #[arg(long, value_name = "ID")]
    subnet: Vec<String>,
}

// === impl Aws ===

impl Aws {
    /// As the API takes it; `None`: nothing of it was asked for.
    pub fn asked(&self, pull_login: bool) -> Option<v1::Aws> {
        let said = |s: &Option<String>| s.clone().unwrap_or_default();
        let all = v1::Aws {
            certificate: said(&self.certificate),
            zone: said(&self.zone),
            subnets: self.subnet.clone(),
            pull_login,
        };
        (all != v1::Aws::default()).then_some(all)
    }
}
