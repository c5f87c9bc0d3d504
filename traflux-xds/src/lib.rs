//! Envoy xDS control plane for traffic weights: compile, snapshots, ADS server
