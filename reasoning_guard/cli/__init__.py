"""The command line: one module for each command, each a thin shell over :mod:`reasoning_guard.offline`.

Nothing heavy is imported at the top of these modules: ``--help`` must not wait for torch.
"""
