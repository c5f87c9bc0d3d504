//! Closed-loop traffic control for Envoy and in-process gateways: controller, command line, HTTP API
