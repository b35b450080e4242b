"""Tencent Hunyuan Image 3.0."""
