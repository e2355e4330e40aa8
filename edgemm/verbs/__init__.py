"""Commands: one file each, `def <name>(...)`, called by the command line and from Python alike.

The command line takes the function's parameters as arguments and options, its docstring as their help, and the file's first line for the
list of commands. What ``ending(result, **options)`` of a file says is printed at the end; without it, the result is.
"""
