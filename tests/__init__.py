"""Tests, one folder per room; what several of them share lies here."""
