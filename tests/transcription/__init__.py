"""Tests of the room `transcription`."""
