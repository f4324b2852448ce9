//! All calls into Envoy, with bytes in and bytes out. None of them can panic.
//!
//! The wrappers of the proxy-wasm SDK unwrap the host's statuses and convert header values to strings: one value that
//! is not UTF-8, or one missing buffer, crashes the whole VM. Here each call returns the host's status.
#![allow(unsafe_code, reason = "the ABI is raw pointers; this is the one file that handles them")]

use core::{fmt, ptr};
use tidegate::units::Span;

/// A status other than OK, as the host gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostError(u32);

impl HostError {
    const NOT_FOUND: Self = Self(1);
    /// The target of a call does not exist.
    pub const BAD_ARGUMENT: Self = Self(2);
    /// The shared value has changed since it was read.
    pub const CAS_MISMATCH: Self = Self(8);
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the host answered with status {}", self.0)
    }
}

/// Selects a set of headers.
#[derive(Clone, Copy)]
pub enum Map {
    Request = 0,
    Response = 2,
    CallResponse = 6,
}

/// The level of a log line.
#[derive(Clone, Copy)]
pub enum Level {
    Debug = 1,
    Info = 2,
    Warn = 3,
    Error = 4,
}

/// The kind of a metric.
#[derive(Clone, Copy)]
pub enum MetricKind {
    Counter = 0,
    Gauge = 1,
}

/// A metric that has been defined.
#[derive(Clone, Copy)]
pub struct MetricId(u32);

/// A shared value, and the token that a compare-and-swap must present.
pub struct SharedValue {
    pub bytes: Vec<u8>,
    pub cas: u32,
}

/// Writes one log line; every line of the filter begins with `tidegate:`.
pub fn log(level: Level, message: fmt::Arguments<'_>) {
    let line = format!("tidegate: {message}");
    // A line that cannot be logged cannot be reported either.
    let _ = unsafe { proxy_log(level as u32, line.as_ptr(), line.len()) };
}

/// Nanoseconds since the Unix epoch; zero if the host has no clock.
pub fn now_ns() -> u64 {
    let mut now = 0;
    let _ = unsafe { proxy_get_current_time_nanoseconds(&raw mut now) };
    #[cfg(feature = "test-clock")]
    let now = crate::clock::instead_of(now);
    now
}

/// The plugin's `configuration`, as JSON text.
pub fn configuration() -> Result<Option<Vec<u8>>, HostError> {
    const PLUGIN_CONFIGURATION: u32 = 7;
    received(|data, size| unsafe { proxy_get_buffer_bytes(PLUGIN_CONFIGURATION, 0, usize::MAX, data, size) })
}

/// The value of a request header; repeated lines are joined by `,`. `None` if it is absent or empty.
pub fn request_header(name: &str) -> Result<Option<Vec<u8>>, HostError> {
    const PREFIX: &[u8] = b"request\0headers\0";
    property(&[PREFIX, name.as_bytes()].concat())
}

/// The first value of a header. `None` if it is absent or empty.
pub fn header(map: Map, name: &str) -> Result<Option<Vec<u8>>, HostError> {
    received(|data, size| unsafe { proxy_get_header_map_value(map as u32, name.as_ptr(), name.len(), data, size) })
}

/// Whether there is such a header, even if empty. Also `true` if the host cannot tell.
pub fn may_have_header(map: Map, name: &str) -> bool {
    let mut absent = false;
    let _ = received(|data, size| {
        let status = unsafe { proxy_get_header_map_value(map as u32, name.as_ptr(), name.len(), data, size) };
        absent = HostError(status) == HostError::NOT_FOUND;
        status
    });
    !absent
}

/// Adds a header, and keeps those of the same name.
pub fn add_header(map: Map, name: &str, value: impl AsRef<[u8]>) -> Result<(), HostError> {
    let value = value.as_ref();
    check(unsafe { proxy_add_header_map_value(map as u32, name.as_ptr(), name.len(), value.as_ptr(), value.len()) })
}

/// All header lines, as bytes for [`lines`].
pub fn header_lines(map: Map) -> Result<Vec<u8>, HostError> {
    let bytes = received(|data, size| unsafe { proxy_get_header_map_pairs(map as u32, data, size) })?;
    Ok(bytes.unwrap_or_default())
}

/// The names and values in the ABI's encoding of header lines, see [`pairs`]. Stops where the bytes are cut short.
pub fn lines(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    fn word(bytes: &[u8], at: usize) -> Option<usize> {
        let (word, _) = bytes.get(at..)?.split_first_chunk::<4>()?;
        usize::try_from(u32::from_le_bytes(*word)).ok()
    }
    let count = word(bytes, 0).unwrap_or(0);
    let mut texts = count.checked_mul(8).and_then(|sizes| bytes.get(sizes.checked_add(4)?..)).unwrap_or_default();
    (0..count).map_while(move |line| {
        let at = line.checked_mul(8)?.checked_add(4)?;
        let mut text = |size: usize| {
            let (text, rest) = texts.split_at_checked(size)?;
            texts = rest.strip_prefix(b"\0")?;
            Some(text)
        };
        Some((text(word(bytes, at)?)?, text(word(bytes, at.checked_add(4)?)?)?))
    })
}

/// The chunk of the response's body that has just arrived. `size` is in bytes.
pub fn body_piece(size: usize) -> Result<Vec<u8>, HostError> {
    const RESPONSE_BODY: u32 = 1;
    let bytes = received(|data, got| unsafe { proxy_get_buffer_bytes(RESPONSE_BODY, 0, size, data, got) })?;
    Ok(bytes.unwrap_or_default())
}

/// Replaces all header lines.
pub fn set_header_lines(map: Map, lines: &[(&[u8], &[u8])]) -> Result<(), HostError> {
    let bytes = pairs(lines);
    check(unsafe { proxy_set_header_map_pairs(map as u32, bytes.as_ptr(), bytes.len()) })
}

/// Sets a header, and replaces those of the same name.
pub fn replace_header(map: Map, name: &str, value: impl AsRef<[u8]>) -> Result<(), HostError> {
    let value = value.as_ref();
    check(unsafe { proxy_replace_header_map_value(map as u32, name.as_ptr(), name.len(), value.as_ptr(), value.len()) })
}

/// Removes all headers of a name, if any.
pub fn remove_header(map: Map, name: &str) -> Result<(), HostError> {
    check(unsafe { proxy_remove_header_map_value(map as u32, name.as_ptr(), name.len()) })
}

/// The address of the connection, with its port.
pub fn source_address() -> Result<Option<Vec<u8>>, HostError> {
    property(b"source\0address")
}

/// A value shared by all workers; `None` if it was never set.
pub fn shared(key: &[u8]) -> Result<Option<SharedValue>, HostError> {
    let mut cas = 0;
    let bytes =
        received(|data, size| unsafe { proxy_get_shared_data(key.as_ptr(), key.len(), data, size, &raw mut cas) })?;
    Ok(bytes.map(|bytes| SharedValue { bytes, cas }))
}

/// Sets a value shared by all workers if it is unchanged since it was read with the token `cas`. `None`: if it was
/// never set.
///
/// # Errors
/// [`HostError::CAS_MISMATCH`] if another worker has changed it.
pub fn set_shared(key: &[u8], value: &[u8], cas: Option<u32>) -> Result<(), HostError> {
    // The host accepts any token for an absent key, and no value ever has this one. Zero would mean an unconditional
    // write.
    let cas = cas.unwrap_or(u32::MAX);
    check(unsafe { proxy_set_shared_data(key.as_ptr(), key.len(), value.as_ptr(), value.len(), cas) })
}

/// Sets the period of `proxy_on_tick`; zero for never.
pub fn set_tick_period(period: Span) -> Result<(), HostError> {
    #[cfg(feature = "test-clock")]
    let period = crate::clock::period(period);
    let period_ms = u32::try_from(period.as_nanos() / 1_000_000).unwrap_or(u32::MAX);
    check(unsafe { proxy_set_tick_period_milliseconds(period_ms) })
}

/// Makes the calls that follow act on this stream, outside of the stream's own callbacks.
///
/// # Errors
/// Envoy no longer has the stream.
pub fn set_stream(stream: u32) -> Result<(), HostError> {
    check(unsafe { proxy_set_effective_context(stream) })
}

/// Resumes a request that was paused at its headers.
pub fn resume_request() -> Result<(), HostError> {
    const REQUEST: u32 = 0;
    check(unsafe { proxy_continue_stream(REQUEST) })
}

/// Resumes a response that was paused at its headers.
pub fn resume_response() -> Result<(), HostError> {
    const RESPONSE: u32 = 1;
    check(unsafe { proxy_continue_stream(RESPONSE) })
}

/// Envoy's flags about what happened to the stream, one bit each: `response.flags`.
pub fn response_flags() -> Result<u64, HostError> {
    Ok(property(b"response\0flags")?.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes))
}

/// The cluster to which Envoy's router has sent the current stream: `xds.cluster_name`.
pub fn cluster() -> Result<Option<Vec<u8>>, HostError> {
    property(b"xds\0cluster_name")
}

/// Whether the response came from an upstream, and not from a filter or from Envoy: `response.code_details`. Also
/// `true` if Envoy cannot tell.
pub fn answered_by_upstream() -> bool {
    property(b"response\0code_details").ok().flatten().is_none_or(|details| details == b"via_upstream")
}

/// The `vm_id` of the plugin, be it empty.
pub fn vm_id() -> Result<Option<Vec<u8>>, HostError> {
    property(b"plugin_vm_id")
}

/// Sends a request to a cluster, for the current root or the current stream's root. Returns the token that its response
/// will carry.
///
/// # Errors
/// There is no such cluster, or the call could not even start.
pub fn call(cluster: &str, lines: &[(&[u8], &[u8])], body: &[u8], timeout_ms: u32) -> Result<u32, HostError> {
    let (headers, trailers) = (pairs(lines), pairs(&[]));
    let mut token = 0;
    check(unsafe {
        proxy_http_call(
            cluster.as_ptr(),
            cluster.len(),
            headers.as_ptr(),
            headers.len(),
            body.as_ptr(),
            body.len(),
            trailers.as_ptr(),
            trailers.len(),
            timeout_ms,
            &raw mut token,
        )
    })?;
    Ok(token)
}

/// The body of the response to a call. `size` is in bytes.
pub fn call_body(size: usize) -> Result<Vec<u8>, HostError> {
    const CALL_RESPONSE_BODY: u32 = 4;
    if size == 0 {
        return Ok(Vec::new());
    }
    let bytes = received(|data, got| unsafe { proxy_get_buffer_bytes(CALL_RESPONSE_BODY, 0, size, data, got) })?;
    Ok(bytes.unwrap_or_default())
}

/// Makes a gRPC call with one message to an Envoy `GrpcService`, for the current stream's root. Returns the token that
/// its answer will carry.
///
/// # Errors
/// There is no such service, or the call could not even start.
pub fn call_grpc(service: &[u8], name: &str, method: &str, message: &[u8], timeout: Span) -> Result<u32, HostError> {
    let metadata = pairs(&[]);
    // At least 1 ms: zero would mean no timeout.
    let timeout_ms = u32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX).max(1);
    let mut token = 0;
    check(unsafe {
        proxy_grpc_call(
            service.as_ptr(),
            service.len(),
            name.as_ptr(),
            name.len(),
            method.as_ptr(),
            method.len(),
            metadata.as_ptr(),
            metadata.len(),
            message.as_ptr(),
            message.len(),
            timeout_ms,
            &raw mut token,
        )
    })?;
    Ok(token)
}

/// Cancels a gRPC call. No callback follows.
///
/// # Errors
/// The call has ended already.
pub fn cancel_grpc(token: u32) -> Result<(), HostError> {
    check(unsafe { proxy_grpc_cancel(token) })
}

/// The message that answers a gRPC call. `size` is in bytes.
pub fn grpc_message(size: usize) -> Result<Vec<u8>, HostError> {
    const GRPC_RECEIVE: u32 = 5;
    if size == 0 {
        return Ok(Vec::new());
    }
    let bytes = received(|data, got| unsafe { proxy_get_buffer_bytes(GRPC_RECEIVE, 0, size, data, got) })?;
    Ok(bytes.unwrap_or_default())
}

/// Defines a metric, or returns the existing one.
pub fn define_metric(kind: MetricKind, name: &str) -> Result<MetricId, HostError> {
    let mut id = 0;
    check(unsafe { proxy_define_metric(kind as u32, name.as_ptr(), name.len(), &raw mut id) })?;
    Ok(MetricId(id))
}

/// Adds to a counter; or to a gauge, where `by` may be negative.
pub fn increment(metric: MetricId, by: i64) -> Result<(), HostError> {
    check(unsafe { proxy_increment_metric(metric.0, by) })
}

/// Sets a gauge.
pub fn record(metric: MetricId, value: u64) -> Result<(), HostError> {
    check(unsafe { proxy_record_metric(metric.0, value) })
}

/// The value of a counter or gauge, over all workers.
pub fn metric(metric: MetricId) -> Result<u64, HostError> {
    let mut value = 0;
    check(unsafe { proxy_get_metric(metric.0, &raw mut value) })?;
    Ok(value)
}

/// Whether [`respond`] can send these lines and some of the filter's own. Envoy silently drops a response of more than
/// 1,024 lines or 1 MiB.
pub fn fits_response<'l>(lines: impl Iterator<Item = (&'l [u8], &'l [u8])>) -> bool {
    const MOST_LINES: usize = 1_024 - 64;
    const MOST_BYTES: usize = 1_024 * 1_024 - 64 * 1_024;
    // Each line also has two sizes of four bytes and two terminators.
    let sizes = lines.map(|(name, value)| name.len().saturating_add(value.len()).saturating_add(10));
    let (count, bytes) =
        sizes.fold((0_usize, 0_usize), |(count, sum), size| (count.saturating_add(1), sum.saturating_add(size)));
    count <= MOST_LINES && bytes <= MOST_BYTES
}

/// Responds to the request in place of the upstream. gRPC clients get `grpc_status`, others the HTTP status and the
/// body.
pub fn respond(
    status: u16,
    grpc_status: u8,
    details: &str,
    headers: &[(&[u8], &[u8])],
    body: &[u8],
) -> Result<(), HostError> {
    let headers = pairs(headers);
    check(unsafe {
        proxy_send_local_response(
            u32::from(status),
            details.as_ptr(),
            details.len(),
            body.as_ptr(),
            body.len(),
            headers.as_ptr(),
            headers.len(),
            i32::from(grpc_status),
        )
    })
}

/// Headers in the ABI's encoding: their number, the sizes of each name and value, then each name and value followed by
/// a zero byte.
fn pairs(headers: &[(&[u8], &[u8])]) -> Vec<u8> {
    let word = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
    let mut bytes = Vec::with_capacity(256);
    bytes.extend_from_slice(&word(headers.len()));
    for (name, value) in headers {
        bytes.extend_from_slice(&word(name.len()));
        bytes.extend_from_slice(&word(value.len()));
    }
    for text in headers.iter().flat_map(|(name, value)| [name, value]) {
        bytes.extend_from_slice(text);
        bytes.push(0);
    }
    bytes
}

/// Takes over the value that the host has allocated in this VM: `None` if there is none, or if it is empty.
fn received(call: impl FnOnce(*mut *mut u8, *mut usize) -> u32) -> Result<Option<Vec<u8>>, HostError> {
    let mut data = ptr::null_mut();
    let mut size = 0;
    match check(call(&raw mut data, &raw mut size)) {
        Err(HostError::NOT_FOUND) => Ok(None),
        Err(error) => Err(error),
        Ok(()) if data.is_null() => Ok(None),
        // The host got the memory from `proxy_on_memory_allocate`, as a boxed slice of exactly this size, and this call
        // hands over its ownership.
        Ok(()) => Ok(Some(unsafe { Vec::from_raw_parts(data, size, size) })),
    }
}

/// The property at this path, whose parts are separated by a zero byte.
#[inline]
fn property(path: &[u8]) -> Result<Option<Vec<u8>>, HostError> {
    received(|data, size| unsafe { proxy_get_property(path.as_ptr(), path.len(), data, size) })
}

fn check(status: u32) -> Result<(), HostError> {
    if status == 0 { Ok(()) } else { Err(HostError(status)) }
}

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_log(level: u32, message: *const u8, size: usize) -> u32;
    fn proxy_get_current_time_nanoseconds(time: *mut u64) -> u32;
    fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
    fn proxy_set_header_map_pairs(map: u32, data: *const u8, size: usize) -> u32;
    fn proxy_http_call(
        cluster: *const u8,
        cluster_size: usize,
        headers: *const u8,
        headers_size: usize,
        body: *const u8,
        body_size: usize,
        trailers: *const u8,
        trailers_size: usize,
        timeout_ms: u32,
        token: *mut u32,
    ) -> u32;
    fn proxy_grpc_call(
        service: *const u8,
        service_size: usize,
        name: *const u8,
        name_size: usize,
        method: *const u8,
        method_size: usize,
        metadata: *const u8,
        metadata_size: usize,
        message: *const u8,
        message_size: usize,
        timeout_ms: u32,
        token: *mut u32,
    ) -> u32;
    fn proxy_grpc_cancel(token: u32) -> u32;
    fn proxy_set_effective_context(context: u32) -> u32;
    fn proxy_continue_stream(stream: u32) -> u32;
    fn proxy_get_buffer_bytes(kind: u32, start: usize, max: usize, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_get_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_get_header_map_pairs(map: u32, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_add_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;
    fn proxy_replace_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;
    fn proxy_remove_header_map_value(map: u32, name: *const u8, name_size: usize) -> u32;
    fn proxy_get_property(path: *const u8, path_size: usize, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_get_shared_data(
        key: *const u8,
        key_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
        cas: *mut u32,
    ) -> u32;
    fn proxy_set_shared_data(key: *const u8, key_size: usize, value: *const u8, value_size: usize, cas: u32) -> u32;
    fn proxy_define_metric(kind: u32, name: *const u8, name_size: usize, id: *mut u32) -> u32;
    fn proxy_record_metric(id: u32, value: u64) -> u32;
    fn proxy_increment_metric(id: u32, by: i64) -> u32;
    fn proxy_get_metric(id: u32, value: *mut u64) -> u32;
    fn proxy_send_local_response(
        status: u32,
        details: *const u8,
        details_size: usize,
        body: *const u8,
        body_size: usize,
        headers: *const u8,
        headers_size: usize,
        grpc_status: i32,
    ) -> u32;
}
