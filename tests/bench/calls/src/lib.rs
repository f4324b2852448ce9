//! A filter that only makes the calls that Tidegate makes for one limit by address: it measures the host's share of the
//! cost.
//!
//! Words in its configuration vary this: `unaddressed` and `silent` leave out the address and the two fields, and
//! `routed` adds the calls of a route.

use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

static ADDRESSED: AtomicBool = AtomicBool::new(true);
static TOLD: AtomicBool = AtomicBool::new(true);
static ROUTED: AtomicBool = AtomicBool::new(false);

#[unsafe(no_mangle)]
extern "C" fn proxy_abi_version_0_2_1() {}

#[unsafe(no_mangle)]
extern "C" fn _initialize() {
    unsafe extern "C" {
        fn __wasm_call_ctors();
    }
    // The linker provides this; it must be called once, before anything else.
    unsafe { __wasm_call_ctors() }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
    Box::into_raw(Box::<[u8]>::new_uninit_slice(size)).cast()
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_context_create(_id: u32, _parent: u32) {}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_vm_start(_root: u32, _size: usize) -> u32 {
    1
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_configure(_root: u32, size: usize) -> u32 {
    let (mut data, mut taken) = (ptr::null_mut(), 0);
    unsafe { proxy_get_buffer_bytes(CONFIGURATION, 0, size, &raw mut data, &raw mut taken) };
    let words = String::from_utf8_lossy(&given(data, taken)).into_owned();
    let has = |wanted| words.split(' ').any(|word| word == wanted);
    ADDRESSED.store(!has("unaddressed"), Relaxed);
    TOLD.store(!has("silent"), Relaxed);
    ROUTED.store(has("routed"), Relaxed);
    1
}

/// The value that the host has written into memory from `proxy_on_memory_allocate`.
fn given(data: *mut u8, size: usize) -> Vec<u8> {
    if data.is_null() { Vec::new() } else { unsafe { Vec::from_raw_parts(data, size, size) } }
}

/// Asks for the address, the time, and the upstream header, which is absent. For a route, sets that header instead.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_headers(_stream: u32, _count: u32, _end: u32) -> u32 {
    let (mut data, mut size, mut time) = (ptr::null_mut(), 0, 0);
    unsafe {
        if ADDRESSED.load(Relaxed) {
            proxy_get_property(ADDRESS.as_ptr(), ADDRESS.len(), &raw mut data, &raw mut size);
            drop(given(data, size));
        }
        proxy_get_current_time_nanoseconds(&raw mut time);
        if ROUTED.load(Relaxed) {
            proxy_replace_header_map_value(REQUEST, UPSTREAM.as_ptr(), UPSTREAM.len(), CLUSTER.as_ptr(), CLUSTER.len());
        } else {
            proxy_get_header_map_value(REQUEST, UPSTREAM.as_ptr(), UPSTREAM.len(), &raw mut data, &raw mut size);
        }
    }
    CONTINUE
}

/// Adds two headers as long as those of a limit. For a route, also asks for the status.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_headers(_stream: u32, _count: u32, _end: u32) -> u32 {
    if ROUTED.load(Relaxed) {
        let (mut data, mut size) = (ptr::null_mut(), 0);
        unsafe { proxy_get_header_map_value(RESPONSE, STATUS.as_ptr(), STATUS.len(), &raw mut data, &raw mut size) };
        drop(given(data, size));
    }
    for (name, value) in FIELDS.iter().filter(|_| TOLD.load(Relaxed)) {
        unsafe { proxy_add_header_map_value(RESPONSE, name.as_ptr(), name.len(), value.as_ptr(), value.len()) };
    }
    CONTINUE
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_body(_stream: u32, _size: usize, _end: u32) -> u32 {
    CONTINUE
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_delete(_id: u32) {}

const CONTINUE: u32 = 0;
const REQUEST: u32 = 0;
const RESPONSE: u32 = 2;
const ADDRESS: &str = "source\0address";
const CONFIGURATION: u32 = 7;
const UPSTREAM: &str = "x-tidegate-upstream";
const CLUSTER: &str = "origin";
const STATUS: &str = ":status";
const FIELDS: [(&str, &str); 2] =
    [("ratelimit-policy", r#""api";q=100000000;w=60"#), ("ratelimit", r#""api";r=99999999;t=37;pk=:q83vASNFZ4k=:"#)];

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_get_current_time_nanoseconds(time: *mut u64) -> u32;
    fn proxy_get_property(path: *const u8, path_size: usize, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_get_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_get_buffer_bytes(buffer: u32, from: usize, most: usize, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_replace_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;
    fn proxy_add_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;
}
