"""cosmos_core.views"""
