//! Real MCP clients, frozen from their lockfiles, through `/mcp/<name>/run`.

use mcpfs_tests::command::Ran;
use mcpfs_tests::host::Reads;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::servers;
use mcpfs_tests::suite::Suite;

use crate::world::World;

pub(crate) fn register(suite: &mut Suite) {
    suite.mounted("clients::the_inspector_lists_and_calls", the_inspector_lists_and_calls);
    suite.mounted("clients::the_python_sdk_lists_and_calls", the_python_sdk_lists_and_calls);
}

fn the_inspector_lists_and_calls(reads: Reads) {
    let world = World::new(reads);
    let _mount = Mount::start(&world.host);
    let inspect = |arguments: &[&str]| -> Ran {
        servers::inspector().env("HOME", world.host.home()).arg(world.run("hello")).args(arguments).ok()
    };
    let tools = inspect(&["--method", "tools/list"]).json();
    let mut names: Vec<&str> = tools["tools"].as_array().unwrap().iter().filter_map(|it| it["name"].as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["add", "digest", "echo", "whoami"]);
    let called = inspect(&["--method", "tools/call", "--tool-name", "echo", "--tool-arg", "message=hi"]).json();
    assert_eq!(called["content"][0]["text"], "hi");
}

fn the_python_sdk_lists_and_calls(reads: Reads) {
    let world = World::new(reads);
    let _mount = Mount::start(&world.host);
    let script = r#"
import asyncio, sys
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

async def main():
    async with stdio_client(StdioServerParameters(command=sys.argv[1])) as (read, write):
        async with ClientSession(read, write) as session:
            await session.initialize()
            tools = await session.list_tools()
            print(sorted(tool.name for tool in tools.tools))
            result = await session.call_tool("add", {"a": 20, "b": 22})
            print(result.content[0].text)

asyncio.run(main())
"#;
    let ran = servers::python_sdk().env("HOME", world.host.home()).args(["-c", script]).arg(world.run("hello")).ok();
    assert_eq!(ran.stdout, "['add', 'digest', 'echo', 'whoami']\n42\n", "{ran}");
}
