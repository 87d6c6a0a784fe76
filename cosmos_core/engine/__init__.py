"""cosmos_core.engine"""
