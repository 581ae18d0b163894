//! Flags of what runs on a cluster.
use crate::parse;
use syp_proto::v1;

/// Where on a cluster, and what its nodes get the image with.
#[derive(Debug, Default, clap::Args)]
pub struct Kubernetes {
    /// On a cluster: this namespace, which must be there [default: one of its own]
    #[arg(long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// The name that callers use: on a cluster through an ingress, on AWS that of a certificate
    #[arg(long, value_name = "NAME")]
    pub domain: Vec<String>,
    /// Class of the ingress [default: the cluster's]
    #[arg(long, value_name = "CLASS", requires = "domain")]
    ingress_class: Option<String>,
    /// Secret of the namespace with the ingress' certificate
    #[arg(long, value_name = "SECRET", requires = "domain")]
    tls_secret: Option<String>,
    /// Annotation of the ingress: for its controller, or cert-manager.io/cluster-issuer=NAME for a certificate
    #[arg(long, value_parser = parse::key_value, value_name = "KEY=VALUE", requires = "domain")]
    ingress_annotation: Vec<(String, String)>,
    /// On a cluster with the Gateway API: through this Gateway instead of an ingress
    #[arg(long, value_name = "NAMESPACE/NAME", requires = "domain", conflicts_with_all = ["ingress_class", "tls_secret", "ingress_annotation"])]
    gateway: Option<String>,
    /// Secret of the namespace with which the nodes pull the image
    #[arg(long, value_name = "SECRET", requires = "namespace")]
    pull_secret: Option<String>,
    /// Nodes, and tasks on AWS, pull the image with what 'docker login' left here for its registry
    #[arg(long)]
    pull_login: bool,
}

// === impl Kubernetes ===

impl Kubernetes {
    /// On AWS it is among what is [`super::aws::Aws`]'s.
    pub fn pulls_on_aws(&self, target: &str) -> bool {
        self.pull_login && target.starts_with("aws:")
    }

    /// As the API takes it; `None`: nothing of it was asked for.
    pub fn asked(&self, target: &str) -> Option<v1::Kubernetes> {
        let said = |s: &Option<String>| s.clone().unwrap_or_default();
        let all = v1::Kubernetes {
            namespace: said(&self.namespace),
            ingress_class: said(&self.ingress_class),
            tls_secret: said(&self.tls_secret),
            pull_secret: said(&self.pull_secret),
            pull_login: self.pull_login && !self.pulls_on_aws(target),
            gateway: said(&self.gateway),
            ingress_annotations: self.ingress_annotation.iter().cloned().collect(),
        };
        (all != v1::Kubernetes::default()).then_some(all)
    }
}
