//! The shipped Envoy bootstrap with a few explicit changes, so that demo and tests run what is shipped.
//!
//! Shared by the demo and the test suite. A change fails if the place that it changes is missing, so the shipped file
//! and these changes cannot drift apart.

#![allow(dead_code, reason = "the demo and the suite each use a part of the rig")]

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

/// A bootstrap for Envoy. Made from the shipped one by [`Bootstrap::shipped`].
#[derive(Clone, Debug)]
pub struct Bootstrap(Value);

/// Why a bootstrap could not be made: the shipped file lacks a place that is to be changed, or a file could not be
/// written.
#[derive(Debug)]
pub struct BootstrapError(String);

impl fmt::Display for BootstrapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the Envoy bootstrap: {}", self.0)
    }
}

impl std::error::Error for BootstrapError {}

impl Bootstrap {
    /// `envoy/envoy.yaml` as shipped, listening on the loopback at ports that the system chooses.
    pub fn shipped() -> Result<Self, BootstrapError> {
        let shipped = Self::parse(include_str!("../../../../envoy/envoy.yaml"))?;
        let address = "address/socket_address";
        shipped
            .set(&format!("/admin/{address}/port_value"), json!(0))?
            .set(&format!("/static_resources/listeners/0/{address}/port_value"), json!(0))?
            .set(&format!("/static_resources/listeners/0/{address}/address"), json!("127.0.0.1"))
    }

    /// A bootstrap from YAML or JSON.
    pub fn parse(text: &str) -> Result<Self, BootstrapError> {
        serde_yaml_ng::from_str(text).map(Self).map_err(|e| BootstrapError(e.to_string()))
    }

    /// The bootstrap as JSON, which Envoy accepts like YAML.
    #[must_use]
    pub fn text(&self) -> String {
        self.0.to_string()
    }

    /// Replaces the value at the JSON pointer. There must be one already.
    pub fn set(mut self, pointer: &str, value: Value) -> Result<Self, BootstrapError> {
        *at(&mut self.0, pointer)? = value;
        Ok(self)
    }

    /// Adds or replaces a field of the object at the JSON pointer.
    pub fn insert(mut self, pointer: &str, field: &str, value: Value) -> Result<Self, BootstrapError> {
        let object = at(&mut self.0, pointer)?
            .as_object_mut()
            .ok_or_else(|| BootstrapError(format!("no object at {pointer}")))?;
        object.insert(field.to_owned(), value);
        Ok(self)
    }

    /// Sets the filter's wasm.
    pub fn wasm(mut self, path: &Path) -> Result<Self, BootstrapError> {
        let config = filter_config(&mut self.0)?;
        *at(config, "/vm_config/code/local/filename")? = json!(path);
        Ok(self)
    }

    /// Sets the policy, a JSON document.
    pub fn policy(mut self, policy: &str) -> Result<Self, BootstrapError> {
        *at(filter_config(&mut self.0)?, "/configuration/value")? = json!(policy);
        Ok(self)
    }

    /// Sets the environment of the filter's VM, Envoy's `EnvironmentVariables`.
    pub fn environment(self, variables: Value) -> Result<Self, BootstrapError> {
        let mut changed = self;
        let vm = at(filter_config(&mut changed.0)?, "/vm_config")?;
        let vm = vm.as_object_mut().ok_or_else(|| BootstrapError("vm_config is no object".to_owned()))?;
        vm.insert("environment_variables".to_owned(), variables);
        Ok(changed)
    }

    /// The shipped listener.
    pub fn listener(&self) -> Result<Value, BootstrapError> {
        at(&mut self.0.clone(), LISTENER).cloned()
    }

    /// Sets the address of the cluster `origin`.
    pub fn upstream(mut self, address: SocketAddr) -> Result<Self, BootstrapError> {
        let endpoint = "/static_resources/clusters/0/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address";
        *at(&mut self.0, &format!("{endpoint}/socket_address"))? =
            json!({ "address": address.ip().to_string(), "port_value": address.port() });
        Ok(self)
    }

    /// Adds a cluster that differs from `origin` only in name and address.
    pub fn with_cluster(mut self, name: &str, address: SocketAddr) -> Result<Self, BootstrapError> {
        let mut cluster = at(&mut self.0, "/static_resources/clusters/0")?.clone();
        let endpoint = "/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address";
        *at(&mut cluster, "/name")? = json!(name);
        *at(&mut cluster, "/load_assignment/cluster_name")? = json!(name);
        *at(&mut cluster, endpoint)? = json!({ "address": address.ip().to_string(), "port_value": address.port() });
        let clusters = at(&mut self.0, "/static_resources/clusters")?;
        clusters.as_array_mut().ok_or_else(|| BootstrapError("clusters is no list".to_owned()))?.push(cluster);
        Ok(self)
    }

    /// Calls the upstream with the client's HTTP version in place of HTTP/1.1. End-to-end gRPC needs this.
    pub fn downstream_protocol_upstream(self) -> Result<Self, BootstrapError> {
        self.insert(
            "/static_resources/clusters/0",
            "typed_extension_protocol_options",
            json!({ "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "use_downstream_protocol_config": { "http_protocol_options": {}, "http2_protocol_options": {} }
            } }),
        )
    }

    /// Removes the filter.
    pub fn without_filter(mut self) -> Result<Self, BootstrapError> {
        remove_filter(at(&mut self.0, LISTENER)?)?;
        Ok(self)
    }

    /// Adds a second listener, `bypass`, that differs from the first only in having no filter.
    pub fn with_bypass_listener(mut self) -> Result<Self, BootstrapError> {
        let mut bypass = at(&mut self.0, LISTENER)?.clone();
        if at(&mut bypass, HTTP_FILTERS)?.as_array().is_some_and(|filters| filters.len() > 1) {
            remove_filter(&mut bypass)?;
        }
        *at(&mut bypass, "/name")? = json!("bypass");
        let listeners = at(&mut self.0, "/static_resources/listeners")?;
        listeners.as_array_mut().ok_or_else(|| BootstrapError("listeners is no list".to_owned()))?.push(bypass);
        Ok(self)
    }

    /// Makes Envoy take its listeners from `file`, and writes them there. When another bootstrap's listeners are
    /// published there ([`Bootstrap::publish_listeners`]), Envoy applies them as it does those of a control plane.
    pub fn listeners_from(mut self, file: &Path) -> Result<Self, BootstrapError> {
        self.publish_listeners(file)?;
        let resources = at(&mut self.0, "/static_resources")?.as_object_mut();
        let _ = resources.and_then(|resources| resources.remove("listeners"));
        self.with_node()?.insert("", "dynamic_resources", json!({ "lds_config": source(file) }))
    }

    /// Makes Envoy take the filter's configuration from `file`, and writes it there. When another bootstrap's filter is
    /// published there ([`Bootstrap::publish_filter`]), Envoy replaces only the filter. This bootstrap's filter applies
    /// while the file has no valid one.
    pub fn filter_from(mut self, file: &Path) -> Result<Self, BootstrapError> {
        self.publish_filter(file)?;
        let filter = filter(&mut self.0)?;
        *filter = json!({ "name": "tidegate", "config_discovery": {
            "config_source": source(file),
            "type_urls": ["type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm"],
            "default_config": filter["typed_config"],
        } });
        self.with_node()
    }

    /// Replaces `file` with this bootstrap's filter. It is renamed into place, because Envoy watches for renames.
    pub fn publish_filter(&self, file: &Path) -> Result<(), BootstrapError> {
        let mut resource = filter(&mut self.0.clone())?.clone();
        resource
            .as_object_mut()
            .ok_or_else(|| BootstrapError("the filter is no object".to_owned()))?
            .insert("@type".to_owned(), json!("type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"));
        publish(file, &json!({ "resources": [resource] }))
    }

    /// Names this Envoy. Envoy requires it for configuration from outside the bootstrap.
    fn with_node(self) -> Result<Self, BootstrapError> {
        self.insert("", "node", json!({ "id": "tidegate", "cluster": "tidegate" }))
    }

    /// Replaces `file` with this bootstrap's listeners. They are renamed into place, because Envoy watches for renames.
    pub fn publish_listeners(&self, file: &Path) -> Result<(), BootstrapError> {
        let mut listeners = at(&mut self.0.clone(), "/static_resources/listeners")?.clone();
        for listener in listeners.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
            listener.insert("@type".to_owned(), json!("type.googleapis.com/envoy.config.listener.v3.Listener"));
        }
        publish(file, &json!({ "resources": listeners }))
    }
}

fn publish(file: &Path, resources: &Value) -> Result<(), BootstrapError> {
    let next = file.with_extension("next");
    std::fs::write(&next, resources.to_string())
        .and_then(|()| std::fs::rename(&next, file))
        .map_err(|e| BootstrapError(format!("cannot write {}: {e}", file.display())))
}

fn source(file: &Path) -> Value {
    json!({ "path_config_source": { "path": file }, "resource_api_version": "V3" })
}

fn at<'v>(value: &'v mut Value, pointer: &str) -> Result<&'v mut Value, BootstrapError> {
    value.pointer_mut(pointer).ok_or_else(|| BootstrapError(format!("nothing at {pointer}")))
}

fn filter_config(bootstrap: &mut Value) -> Result<&mut Value, BootstrapError> {
    at(filter(bootstrap)?, "/typed_config/config")
}

fn filter(bootstrap: &mut Value) -> Result<&mut Value, BootstrapError> {
    let filters = at(bootstrap, &format!("{LISTENER}{HTTP_FILTERS}"))?.as_array_mut();
    let filter = filters.and_then(|filters| filters.iter_mut().find(|filter| is_tidegate(filter)));
    filter.ok_or_else(|| BootstrapError("no filter named tidegate".to_owned()))
}

fn remove_filter(listener: &mut Value) -> Result<(), BootstrapError> {
    let filters = at(listener, HTTP_FILTERS)?.as_array_mut();
    let filters = filters.ok_or_else(|| BootstrapError("http_filters is no list".to_owned()))?;
    let before = filters.len();
    filters.retain(|filter| !is_tidegate(filter));
    if filters.len() == before {
        return Err(BootstrapError("no filter named tidegate".to_owned()));
    }
    Ok(())
}

fn is_tidegate(filter: &Value) -> bool {
    filter.get("name").is_some_and(|name| name == "tidegate")
}

const LISTENER: &str = "/static_resources/listeners/0";
const HTTP_FILTERS: &str = "/filter_chains/0/filters/0/typed_config/http_filters";
