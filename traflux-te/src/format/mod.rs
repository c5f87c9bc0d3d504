//! How are networks and matrices read from and written to the files people have?
