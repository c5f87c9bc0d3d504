//! Two-stage traffic-splitting linear programs with duals that explain themselves
