//! Prometheus as a metrics source and as an exporter for traffic control
