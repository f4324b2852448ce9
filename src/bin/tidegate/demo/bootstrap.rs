//! The shipped Envoy bootstrap, changed in named places only: what is tried is what is shipped.
//!
//! Part of the rig that the demo and the test suite share. Every change fails when the place it is for is not there, so
//! the shipped file cannot drift away from what is tried.

#![allow(dead_code, reason = "the demo and the suite each use a part of the rig")]

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

/// A bootstrap for Envoy. Made from the shipped one by [`Bootstrap::shipped`].
#[derive(Clone, Debug)]
pub struct Bootstrap(Value);

/// Why a bootstrap could not be made: the file and the rig have drifted apart, or a file could not be written.
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

    /// The bootstrap as JSON, which Envoy takes as it takes YAML.
    #[must_use]
    pub fn text(&self) -> String {
        self.0.to_string()
    }

    /// Puts `value` where the JSON pointer leads. Something must stand there already.
    pub fn set(mut self, pointer: &str, value: Value) -> Result<Self, BootstrapError> {
        *at(&mut self.0, pointer)? = value;
        Ok(self)
    }

    /// Adds or replaces a field of the object that the JSON pointer leads to.
    pub fn insert(mut self, pointer: &str, field: &str, value: Value) -> Result<Self, BootstrapError> {
        let object = at(&mut self.0, pointer)?
            .as_object_mut()
            .ok_or_else(|| BootstrapError(format!("no object at {pointer}")))?;
        object.insert(field.to_owned(), value);
        Ok(self)
    }

    /// The filter's wasm.
    pub fn wasm(mut self, path: &Path) -> Result<Self, BootstrapError> {
        let config = filter_config(&mut self.0)?;
        *at(config, "/vm_config/code/local/filename")? = json!(path);
        Ok(self)
    }

    /// The policy, as the text of a JSON document.
    pub fn policy(mut self, policy: &str) -> Result<Self, BootstrapError> {
        *at(filter_config(&mut self.0)?, "/configuration/value")? = json!(policy);
        Ok(self)
    }

    /// The environment of the filter's VM, as Envoy's `EnvironmentVariables`.
    pub fn environment(self, variables: Value) -> Result<Self, BootstrapError> {
        let mut changed = self;
        let vm = at(filter_config(&mut changed.0)?, "/vm_config")?;
        let vm = vm.as_object_mut().ok_or_else(|| BootstrapError("vm_config is no object".to_owned()))?;
        vm.insert("environment_variables".to_owned(), variables);
        Ok(changed)
    }

    /// The one listener.
    pub fn listener(&self) -> Result<Value, BootstrapError> {
        at(&mut self.0.clone(), LISTENER).cloned()
    }

    /// Where the cluster `origin` is.
    pub fn upstream(mut self, address: SocketAddr) -> Result<Self, BootstrapError> {
        let endpoint = "/static_resources/clusters/0/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address";
        *at(&mut self.0, &format!("{endpoint}/socket_address"))? =
            json!({ "address": address.ip().to_string(), "port_value": address.port() });
        Ok(self)
    }

    /// One more cluster, with all that `origin` has but its name and where it is.
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

    /// The upstream is spoken to in the client's own protocol (needed for gRPC all the way through), not always HTTP/1.1.
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

    /// Without the filter, all else as shipped.
    pub fn without_filter(mut self) -> Result<Self, BootstrapError> {
        remove_filter(at(&mut self.0, LISTENER)?)?;
        Ok(self)
    }

    /// A second listener, `bypass`, with all that the first has except the filter.
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

    /// Takes the listeners from `file`, which this writes: publish another bootstrap's listeners there
    /// ([`Bootstrap::publish_listeners`]) and Envoy takes them up, as it does from a control plane.
    pub fn listeners_from(mut self, file: &Path) -> Result<Self, BootstrapError> {
        self.publish_listeners(file)?;
        let resources = at(&mut self.0, "/static_resources")?.as_object_mut();
        let _ = resources.and_then(|resources| resources.remove("listeners"));
        self.with_node()?.insert("", "dynamic_resources", json!({ "lds_config": source(file) }))
    }

    /// Takes the filter's configuration from `file`, which this writes: publish another bootstrap's filter there
    /// ([`Bootstrap::publish_filter`]) and Envoy puts it in the old one's place, all else untouched. The filter of this
    /// bootstrap is in force while there is no good one in the file.
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

    /// Replaces `file` by this bootstrap's filter, by a rename, which is what Envoy watches for.
    pub fn publish_filter(&self, file: &Path) -> Result<(), BootstrapError> {
        let mut resource = filter(&mut self.0.clone())?.clone();
        resource
            .as_object_mut()
            .ok_or_else(|| BootstrapError("the filter is no object".to_owned()))?
            .insert("@type".to_owned(), json!("type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"));
        publish(file, &json!({ "resources": [resource] }))
    }

    /// Whoever takes configuration from outside the bootstrap must have a name.
    fn with_node(self) -> Result<Self, BootstrapError> {
        self.insert("", "node", json!({ "id": "tidegate", "cluster": "tidegate" }))
    }

    /// Replaces `file` by this bootstrap's listeners, by a rename, which is what Envoy watches for.
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
