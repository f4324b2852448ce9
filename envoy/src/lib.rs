//! Tidegate as an Envoy filter.
