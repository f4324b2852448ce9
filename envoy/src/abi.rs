//! The functions that Envoy calls: only those exports of proxy-wasm ABI 0.2.1 that the filter needs.
//!
//! They are written out here instead of taken from the SDK, because each export costs every request a call into the VM,
//! and the SDK exports them all. The SDK's dispatcher also panics on anything unexpected.

#![allow(unsafe_code, reason = "an export's name must be exempt from mangling")]

use crate::filter::Next;
use crate::instance::Others;
use crate::root::Root;
use crate::streams::Streams;
use core::cell::RefCell;
use tidegate::store::rls::RlsError;

/// Everything in this VM, by the ids that Envoy assigns. Envoy calls from one thread, one call at a time, and a host
/// call never calls back into anything here except [`proxy_on_memory_allocate`]. If a tick resumes or answers a stream,
/// Envoy does so after the tick has returned.
struct Vm {
    /// One per plugin with this `vm_id`, and two while a plugin gets a new configuration: a few.
    roots: Vec<(u32, Root)>,
    streams: Streams,
}

thread_local! {
    static VM: RefCell<Vm> = const { RefCell::new(Vm { roots: Vec::new(), streams: Streams::new() }) };
}

impl Vm {
    fn root(&mut self, id: u32) -> Option<&mut Root> {
        self.roots.iter_mut().find(|(other, _)| *other == id).map(|(_, root)| root)
    }
}

/// Declares the ABI version, by its name alone.
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

/// Allocates memory that the host writes to. [`crate::host`] takes it over as a boxed slice of this size.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
    // The host fills it before anything here reads it.
    Box::into_raw(Box::<[u8]>::new_uninit_slice(size)).cast()
}

/// Creates a root if there is no parent, else a stream of that root.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_context_create(id: u32, parent: u32) {
    VM.with_borrow_mut(|vm| {
        if parent == 0 {
            vm.roots.push((id, Root::default()));
        } else if let Some(instance) = vm.root(parent).and_then(|root| root.in_force()) {
            vm.streams.begin(id, instance);
        }
    });
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_vm_start(_root: u32, _size: usize) -> u32 {
    TRUE
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_configure(root: u32, _size: usize) -> u32 {
    VM.with_borrow_mut(|vm| vm.root(root).map_or(FALSE, |root| u32::from(root.configure())))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_tick(root: u32) {
    VM.with_borrow_mut(|vm| {
        let worst = vm.roots.iter().filter_map(|(_, root)| root.in_force()?.health()).max();
        // Envoy assigns increasing ids.
        let newer = vm.roots.iter().filter(|(other, _)| *other > root).filter_map(|(_, it)| it.in_force()).collect();
        let root = vm.roots.iter_mut().find(|(other, _)| *other == root);
        if let Some((_, root)) = root {
            root.tick(&mut vm.streams, &Others { worst, newer });
        }
    });
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_headers(stream: u32, _count: u32, end: u32) -> u32 {
    VM.with_borrow_mut(|vm| {
        vm.streams.get_mut(stream).map_or(Next::Continue, |filter| filter.request_headers(end != 0)) as u32
    })
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_body(stream: u32, _size: usize, end: u32) -> u32 {
    VM.with_borrow_mut(|vm| {
        vm.streams.get_mut(stream).map_or(Next::Continue, |filter| filter.request_body(end != 0)) as u32
    })
}

/// Passes on the response to an HTTP call that this root made.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_http_call_response(root: u32, token: u32, lines: u32, size: usize, _trailers: u32) {
    VM.with_borrow_mut(|vm| {
        let root = vm.roots.iter_mut().find(|(other, _)| *other == root);
        if let Some((_, root)) = root {
            root.call_answered(&mut vm.streams, token, lines, size);
        }
    });
}

/// Passes on the message that answers a gRPC call of this root.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_grpc_receive(root: u32, token: u32, size: usize) {
    grpc_answered(root, token, Ok(size));
}

/// A gRPC call of this root has failed. Not called for an answered one.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_grpc_close(root: u32, token: u32, status: u32) {
    grpc_answered(root, token, Err(RlsError::of_status(status)));
}

fn grpc_answered(root: u32, token: u32, end: Result<usize, RlsError>) {
    VM.with_borrow_mut(|vm| {
        let root = vm.roots.iter_mut().find(|(other, _)| *other == root);
        if let Some((_, root)) = root {
            root.grpc_answered(&mut vm.streams, token, end);
        }
    });
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_headers(stream: u32, _count: u32, end: u32) -> u32 {
    VM.with_borrow_mut(|vm| {
        vm.streams.get_mut(stream).map_or(Next::Continue, |filter| filter.response_headers(end != 0)) as u32
    })
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_body(stream: u32, size: usize, end: u32) -> u32 {
    VM.with_borrow_mut(|vm| {
        vm.streams.get_mut(stream).map_or(Next::Continue, |filter| filter.response_body(size, end != 0)) as u32
    })
}

/// Ends a response with trailers, as those of gRPC.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_trailers(stream: u32, _count: u32) -> u32 {
    VM.with_borrow_mut(|vm| {
        if let Some(filter) = vm.streams.get_mut(stream) {
            filter.response_ended();
        }
    });
    Next::Continue as u32
}

/// Ends a stream; or ends a root, after it has returned its leases and cleared its gauges.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_delete(id: u32) {
    VM.with_borrow_mut(|vm| {
        if !vm.streams.end(id)
            && let Some(at) = vm.roots.iter().position(|(other, _)| *other == id)
        {
            let (_, mut root) = vm.roots.swap_remove(at);
            root.end(vm.roots.iter().filter_map(|(_, other)| other.in_force()));
        }
    });
}

const TRUE: u32 = 1;
const FALSE: u32 = 0;
