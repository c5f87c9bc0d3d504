//! Actor-critic policies that choose what a traffic controller may move
