mod capacity;
mod demand;
mod fluid;
mod health;
mod properties;
