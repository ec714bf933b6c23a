"""Tests of pointworld.control."""
